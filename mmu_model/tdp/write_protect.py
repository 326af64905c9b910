"""No writes through the TDP MMU to a frame that holds a table shadowed for a nested guest (tdp_mmu.c)."""

from mmu_model.hardware.types import Gfn
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.spte import PT_WRITABLE_MASK, is_last_spte, is_shadow_present_pte
from mmu_model.kvm.vm import Kvm
from mmu_model.tdp.iter import TdpIter


def kvm_tdp_mmu_write_protect_gfn(kvm: Kvm, slot: KvmMemorySlot, gfn: Gfn) -> bool:
    """Take W, and the right of faults to give it back, from the leaf of every root that maps the frame.

    Whether there was one, so that TLBs must be flushed.
    """
    kvm.mmu_lock.assert_held_write()
    flush = False
    for root in kvm.tdp_mmu_roots:
        if root.role.smm == slot.as_id:
            flush |= _write_protect(kvm, root, gfn)
    return flush


def _write_protect(kvm: Kvm, root: KvmMmuPage, gfn: Gfn) -> bool:
    place = TdpIter(kvm, root, gfn)
    while place.try_step_down():
        pass
    spte = place.old_spte
    if not is_shadow_present_pte(spte) or not is_last_spte(spte, place.level):
        return False
    protected = spte & ~(PT_WRITABLE_MASK | kvm.masks.mmu_writable)
    kvm.host.write(place.sptep, protected)
    return protected != spte
