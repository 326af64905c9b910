"""The host changes, or asks about, the mapping of the guest's memory (tdp_mmu.c)."""

from mmu_model.hardware.types import Gfn
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.spte import is_last_spte, is_shadow_present_pte
from mmu_model.kvm.task import Steps
from mmu_model.kvm.vm import Kvm
from mmu_model.tdp.iter import TdpIter
from mmu_model.tdp.protect import tdp_mmu_clear_spte_bits
from mmu_model.tdp.root import tdp_mmu_next_root
from mmu_model.tdp.zap import tdp_mmu_zap_leafs


def kvm_tdp_mmu_unmap_gfn_range(kvm: Kvm, slot: KvmMemorySlot, start: Gfn, end: Gfn) -> Steps[bool]:
    """No spte maps these frames any more, in invalid roots neither; whether the TLBs are to be flushed."""
    flush = False
    root = yield from tdp_mmu_next_root(kvm, None)
    while root is not None:
        if root.role.smm == slot.as_id:
            flush |= yield from tdp_mmu_zap_leafs(kvm, root, start, end)
        root = yield from tdp_mmu_next_root(kvm, root)
    return flush


def kvm_tdp_mmu_age_gfn_range(kvm: Kvm, slot: KvmMemorySlot, start: Gfn, end: Gfn) -> Steps[bool]:
    """Whether one of the frames was used since it was last asked for; from now on they count as not used."""
    kvm.mmu_lock.assert_held_write()
    young = False
    for root in [root for root in kvm.tdp_mmu_roots if root.role.smm == slot.as_id]:
        young |= yield from _age_root(kvm, root, start, end)
    return young


def _age_root(kvm: Kvm, root: KvmMmuPage, start: Gfn, end: Gfn) -> Steps[bool]:
    young, accessed = False, kvm.masks.accessed
    with kvm.rcu.read:
        place = TdpIter(kvm, root, start)
        while place.valid and place.gfn < end:
            leaf = is_shadow_present_pte(place.old_spte) and is_last_spte(place.old_spte, place.level)
            if leaf and kvm.masks.is_accessed(place.old_spte):
                yield "clears the accessed bit of an spte"
                place.old_spte = tdp_mmu_clear_spte_bits(kvm, place.sptep, place.old_spte, accessed)
                young = True
            place.next()
    return young
