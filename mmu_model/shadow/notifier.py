"""The host changes the mapping of the guest's memory: the part of the shadow MMU (mmu.c: kvm_unmap_gfn_range)."""

from mmu_model.hardware.types import Gfn
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.kvm.types import KVM_MAX_HUGEPAGE_LEVEL, PG_LEVEL_4K, gfn_round_for_level, pages_per_hpage
from mmu_model.kvm.vm import Kvm
from mmu_model.shadow.sptes import zap_all_rmap_sptes


def kvm_unmap_gfn_range(kvm: Kvm, slot: KvmMemorySlot, start: Gfn, end: Gfn) -> bool:
    """No spte maps these frames any more; whether the TLBs are to be flushed."""
    kvm.mmu_lock.assert_held_write()
    flush = False
    for level in range(PG_LEVEL_4K, KVM_MAX_HUGEPAGE_LEVEL + 1):
        for gfn in range(gfn_round_for_level(start, level), end, pages_per_hpage(level)):
            flush |= zap_all_rmap_sptes(kvm, slot.gfn_to_rmap(gfn, level))
    return flush
