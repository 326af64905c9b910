"""What the code that both MMUs share asks of each of them. The modules of that name are what fits here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection

    from mmu_model.hardware.types import Gfn
    from mmu_model.kvm.fault import KvmPageFault, RetPf
    from mmu_model.kvm.memslot import KvmMemorySlot
    from mmu_model.kvm.mmu import RootInfo
    from mmu_model.kvm.page import KvmMmuPage
    from mmu_model.kvm.process import HostMapping
    from mmu_model.kvm.task import Steps
    from mmu_model.kvm.vcpu import KvmVcpu
    from mmu_model.kvm.vm import Kvm


class ShadowMmu(Protocol):
    """:mod:`mmu_model.shadow.entry`."""

    def mmu_try_to_unsync_pages(
        self, kvm: Kvm, slot: KvmMemorySlot, gfn: int, *, can_unsync: bool, prefetch: bool
    ) -> Steps[bool]:
        """Whether a writable spte for the frame may be made, now that its tables are unsync."""

    def mmu_alloc_direct_roots(self, vcpu: KvmVcpu) -> None:
        """Load a root that maps guest-physical memory."""

    def mmu_alloc_shadow_roots(self, vcpu: KvmVcpu) -> None:
        """Load a root that shadows the guest's."""

    def kvm_mmu_sync_roots(self, vcpu: KvmVcpu) -> Steps[None]:
        """Synchronize all that the loaded root reaches."""

    def put_root(self, kvm: Kvm, sp: KvmMmuPage) -> None:
        """A vCPU lets go of a root."""

    def nonpaging_page_fault(self, vcpu: KvmVcpu, fault: KvmPageFault) -> RetPf:
        """A guest without paging faulted."""

    def direct_page_fault(self, vcpu: KvmVcpu, fault: KvmPageFault) -> RetPf:
        """A guest under nested paging faulted, and the TDP MMU is off."""

    def paging_page_fault(self, vcpu: KvmVcpu, fault: KvmPageFault) -> RetPf:
        """A guest whose tables are shadowed faulted."""

    def sync_spte(self, vcpu: KvmVcpu, sp: KvmMmuPage, index: int) -> int:
        """Bring one spte of an unsync page up to date."""

    def kvm_mmu_invlpg(self, vcpu: KvmVcpu, address: int) -> None:
        """The guest executed INVLPG."""

    def kvm_mmu_invalidate_addr(self, vcpu: KvmVcpu, address: int, root: RootInfo) -> None:
        """Bring what translates an address below a root in step."""

    def kvm_mmu_track_write(self, vcpu: KvmVcpu, gpa: int, size: int) -> None:
        """KVM wrote to guest memory for the guest."""

    def kvm_zap_obsolete_pages(self, kvm: Kvm) -> Steps[None]:
        """Zap the pages of generations that are over."""

    def kvm_mmu_slot_remove_write_access(self, kvm: Kvm, slot: KvmMemorySlot) -> None:
        """Write-protect a slot so that its writes are logged."""

    def kvm_mmu_write_protect_gfns(self, kvm: Kvm, slot: KvmMemorySlot, gfns: list[Gfn]) -> None:
        """Write-protect frames so that their next writes are logged."""

    def kvm_rmap_zap_collapsible_sptes(self, kvm: Kvm, slot: KvmMemorySlot) -> None:
        """Drop what could be large pages."""

    def unprotect_gfn(self, kvm: Kvm, gfn: int) -> bool:
        """Zap every page that shadows a table at the frame; whether there was one."""

    def kvm_mmu_zap_oldest_mmu_pages(self, kvm: Kvm, count: int) -> int:
        """Zap so many pages, the oldest first; how many went."""

    def kvm_unmap_gfn_range(self, kvm: Kvm, slot: KvmMemorySlot, start: Gfn, end: Gfn) -> bool:
        """Clear all sptes for frames of a slot; whether the TLBs are to be flushed."""

    def kvm_set_spte_gfn(self, kvm: Kvm, slot: KvmMemorySlot, gfn: Gfn, mapping: HostMapping) -> Steps[bool]:
        """The sptes for a frame get the page that the host has there now; whether there was one."""

    def kvm_rmap_age_gfn_range(
        self, kvm: Kvm, slot: KvmMemorySlot, start: Gfn, end: Gfn, *, test_only: bool
    ) -> bool:
        """Whether frames were used since they were last made old; unless that is all, make them old."""


class TdpMmu(Protocol):
    """:mod:`mmu_model.tdp.entry`."""

    def kvm_tdp_mmu_alloc_root(self, vcpu: KvmVcpu) -> Steps[None]:
        """Load a root."""

    def kvm_tdp_mmu_put_root(self, kvm: Kvm, root: KvmMmuPage) -> Steps[None]:
        """Let go of a root."""

    def kvm_tdp_mmu_invalidate_all_roots(self, kvm: Kvm) -> None:
        """Let no vCPU use any of the roots again."""

    def kvm_tdp_mmu_zap_invalidated_roots(self, kvm: Kvm) -> Steps[None]:
        """Take the tables of such roots apart."""

    def kvm_tdp_mmu_set_spte_gfn(
        self, kvm: Kvm, slot: KvmMemorySlot, gfn: Gfn, mapping: HostMapping
    ) -> Steps[bool]:
        """The sptes for a frame get the page that the host has there now; whether there was one."""

    def kvm_tdp_mmu_zap_sp(self, kvm: Kvm, sp: KvmMmuPage) -> Steps[None]:
        """Zap one page, and what is below it."""

    def kvm_tdp_mmu_unmap_gfn_range(self, kvm: Kvm, slot: KvmMemorySlot, start: Gfn, end: Gfn) -> Steps[bool]:
        """Clear all sptes for frames of a slot; whether the TLBs are to be flushed."""

    def kvm_tdp_mmu_age_gfn_range(self, kvm: Kvm, slot: KvmMemorySlot, start: Gfn, end: Gfn) -> Steps[bool]:
        """Whether frames were used since they were last made old, which they are from now on."""

    def kvm_tdp_mmu_test_age_gfn(self, kvm: Kvm, slot: KvmMemorySlot, start: Gfn, end: Gfn) -> bool:
        """The same, and nothing changes."""

    def kvm_tdp_mmu_write_protect_gfn(self, kvm: Kvm, slot: KvmMemorySlot, gfn: Gfn) -> Steps[bool]:
        """No fault may make the frame writable by itself any more; whether the TLBs are to be flushed."""

    def kvm_tdp_mmu_page_fault(self, vcpu: KvmVcpu, fault: KvmPageFault) -> RetPf:
        """A guest under nested paging faulted."""

    def kvm_tdp_mmu_wrprot_slot(self, kvm: Kvm, slot: KvmMemorySlot, min_level: int = 1) -> Steps[bool]:
        """Write-protect a slot so that its writes are logged; whether there was anything to protect."""

    def kvm_tdp_mmu_clear_dirty_slot(self, kvm: Kvm, slot: KvmMemorySlot) -> Steps[bool]:
        """Make a slot clean so that its writes are logged by the processor; whether there was anything to do."""

    def kvm_tdp_mmu_clear_dirty_pt_masked(
        self, kvm: Kvm, slot: KvmMemorySlot, gfns: Collection[Gfn], *, wrprot: bool
    ) -> Steps[None]:
        """See that the next writes to frames are logged."""

    def kvm_tdp_mmu_try_split_huge_pages(self, kvm: Kvm, slot: KvmMemorySlot) -> Steps[None]:
        """Split the large pages of a slot, whose writes will be logged by small ones."""

    def kvm_tdp_mmu_zap_collapsible_sptes(self, kvm: Kvm, slot: KvmMemorySlot) -> Steps[None]:
        """Drop tables in whose place there could be large pages."""
