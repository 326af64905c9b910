"""What a page that shadows a guest's table demands of the frame that the table is in (mmu.c)."""

from mmu_model.hardware.types import Gfn
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.page_track import kvm_write_track_add_gfn, kvm_write_track_remove_gfn
from mmu_model.kvm.task import finish
from mmu_model.kvm.types import KVM_MAX_HUGEPAGE_LEVEL, PG_LEVEL_4K
from mmu_model.kvm.vm import Kvm
from mmu_model.shadow.sptes import rmap_write_protect


def account_shadowed(kvm: Kvm, sp: KvmMmuPage) -> None:
    """The guest's writes to the table must be seen from now on, until a level-1 page becomes unsync."""
    kvm.indirect_shadow_pages += 1
    slot = kvm.slots_for_role(sp.role).find(sp.gfn)
    if slot is None:
        return
    if sp.role.level > PG_LEVEL_4K:
        kvm_write_track_add_gfn(slot, sp.gfn)
    else:
        slot.count_disallow_lpage(sp.gfn, 1)
    if write_protect_gfn(kvm, slot, sp.gfn):
        kvm.flush_remote_tlbs()


def unaccount_shadowed(kvm: Kvm, sp: KvmMmuPage) -> None:
    """The page goes."""
    kvm.indirect_shadow_pages -= 1
    slot = kvm.slots_for_role(sp.role).find(sp.gfn)
    if slot is None:
        return
    if sp.role.level > PG_LEVEL_4K:
        kvm_write_track_remove_gfn(slot, sp.gfn)
    else:
        slot.count_disallow_lpage(sp.gfn, -1)


def write_protect_gfn(kvm: Kvm, slot: KvmMemorySlot, gfn: Gfn) -> bool:
    """Take W from every spte of either MMU that maps a frame, large ones too; whether TLBs must be flushed.

    mmu.c: kvm_mmu_slot_gfn_write_protect.
    """
    flush = False
    for level in range(PG_LEVEL_4K, KVM_MAX_HUGEPAGE_LEVEL + 1):
        flush |= rmap_write_protect(kvm, slot.gfn_to_rmap(gfn, level), pt_protect=True)
    if kvm.parameters.tdp_mmu_enabled:
        flush |= finish(kvm.tdp.kvm_tdp_mmu_write_protect_gfn(kvm, slot, gfn))
    return flush
