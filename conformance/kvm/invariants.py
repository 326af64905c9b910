"""What is true of KVM's MMUs between any two steps of a guest, of the process, or of the host."""

from collections.abc import Iterator
from typing import Final

from conformance.live import PREDICATES
from conformance.looking import structs
from conformance.races.truths import whole
from mmu_model.kvm.page import KvmMmuPage, kvm_mmu_page_get_gfn, sp_has_gptes
from mmu_model.kvm.page_track import kvm_gfn_is_write_tracked
from mmu_model.kvm.spte import is_last_spte, is_shadow_present_pte, is_writable_pte, spte_to_pfn
from mmu_model.machine import VirtualMachine

_NOT_ALWAYS: Final = {"current_mmio_entries_have_no_memory"}
"""Synchronizing a page of the shadow MMU renews its MMIO sptes without a look at the memslots (mmu.c:
sync_mmio_spte), so that one may deny memory that has come since: `test_synchronizing_revives_an_mmio_spte`."""


def check(vm: VirtualMachine) -> None:
    """Raises AssertionError if anything is not as it has to be."""
    whole(vm)
    counts_are_right(vm)
    for sp, index, spte in leaves(vm):
        leaf_is_right(vm, sp, index, spte)
    snapshot = vm.snapshot()
    wrong = [
        what
        for predicate in PREDICATES
        if predicate.name not in _NOT_ALWAYS or not vm.kvm.shadow_root_allocated
        for what in predicate.check(snapshot)
    ]
    assert not wrong, "; ".join(wrong)


def leaves(vm: VirtualMachine) -> Iterator[tuple[KvmMmuPage, int, int]]:
    """All present leaf sptes of pages that may be used: page, index, spte."""
    for sp in structs(vm):
        if sp.role.invalid:
            continue
        for index, spte in enumerate(vm.host.words(sp.spt)):
            if is_shadow_present_pte(spte) and is_last_spte(spte, sp.role.level):
                yield sp, index, spte


def leaf_is_right(vm: VirtualMachine, sp: KvmMmuPage, index: int, spte: int) -> None:
    """It maps what the process has there for the slot of its frame, and permits no write that must be seen."""
    gfn = kvm_mmu_page_get_gfn(sp, index)
    slot = vm.kvm.slots_for_role(sp.role).find(gfn)
    assert slot is not None, f"an spte maps gfn {gfn:#x}, which is in no slot"
    mapping = vm.process.mapping(slot.hva(gfn))
    assert mapping is not None, f"an spte maps gfn {gfn:#x}, which the process does not have"
    assert mapping.pfn == spte_to_pfn(spte), f"an spte for gfn {gfn:#x} maps a frame that the process has not"
    if is_writable_pte(spte):
        assert mapping.writable, f"an spte lets the guest write to gfn {gfn:#x}, which the process may not"
        assert not kvm_gfn_is_write_tracked(slot, gfn), f"an spte lets the guest write to the table {gfn:#x}"


def counts_are_right(vm: VirtualMachine) -> None:
    """The pages of the shadow MMU are on its list, in its hash, and counted."""
    kvm = vm.kvm
    pages = [sp for sp in structs(vm) if not sp.tdp_mmu_page]
    usable = [sp for sp in pages if not sp.role.invalid]
    assert set(kvm.active_mmu_pages) == set(usable), "active_mmu_pages are not the pages that there are"
    assert kvm.indirect_shadow_pages == sum(map(sp_has_gptes, usable)), "indirect_shadow_pages is wrong"
    assert kvm.n_used_mmu_pages == len(pages), f"n_used_mmu_pages is not {len(pages)}"
    assert all(sp in kvm.bucket(sp.gfn) for sp in pages), "a page is not in the hash"
