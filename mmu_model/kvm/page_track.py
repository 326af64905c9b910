"""Guest frames whose writes must be seen, because a shadowed table is there (mmu/page_track.c)."""

from mmu_model.hardware.types import Gfn
from mmu_model.kvm.fault import KvmPageFault
from mmu_model.kvm.memslot import KvmMemorySlot


def kvm_write_track_add_gfn(slot: KvmMemorySlot, gfn: Gfn) -> None:
    """One more reason to see writes, and against large pages; the caller protects the sptes that exist."""
    slot.gfn_write_track[gfn] = slot.gfn_write_track.get(gfn, 0) + 1
    slot.count_disallow_lpage(gfn, 1)


def kvm_write_track_remove_gfn(slot: KvmMemorySlot, gfn: Gfn) -> None:
    """One reason less."""
    slot.gfn_write_track[gfn] -= 1
    slot.count_disallow_lpage(gfn, -1)


def kvm_gfn_is_write_tracked(slot: KvmMemorySlot, gfn: int) -> bool:
    """Whether there is a reason."""
    return slot.gfn_write_track.get(gfn, 0) > 0


def page_fault_handle_page_track(fault: KvmPageFault) -> bool:
    """Whether the fault is a write that KVM has to see (mmu.c)."""
    if fault.rsvd or not (fault.present and fault.write):
        return False
    return fault.slot is not None and kvm_gfn_is_write_tracked(fault.slot, fault.gfn)
