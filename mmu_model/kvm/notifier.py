"""What KVM does when the host is about to change how it maps the process (kvm_main.c: mmu notifiers)."""

from mmu_model.hardware.types import PAGE_SHIFT, Gfn
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.kvm.types import Hva
from mmu_model.kvm.vm import Kvm


def kvm_mmu_notifier_invalidate_range(kvm: Kvm, start: Hva, npages: int) -> None:
    """Drop every spte that maps one of the pages, in all memslots that show them.

    A fault that looked a frame up before is tried again, whether or not it was one of these.
    """
    end = start + (npages << PAGE_SHIFT)
    flush = False
    with kvm.mmu_lock.write:
        kvm.mmu_invalidate_in_progress += 1
        for slot in (slot for slots in kvm.memslots for slot in slots):
            first = max(slot.userspace_addr, start)
            last = min(slot.userspace_addr + (slot.npages << PAGE_SHIFT), end)
            if first < last:
                gfn = Gfn(slot.base_gfn + (first - slot.userspace_addr >> PAGE_SHIFT))
                flush |= kvm_unmap_gfn_range(kvm, slot, gfn, Gfn(gfn + (last - first >> PAGE_SHIFT)))
        if flush:
            kvm.flush_remote_tlbs()
    kvm.mmu_invalidate_seq += 1
    kvm.mmu_invalidate_in_progress -= 1


def kvm_unmap_gfn_range(kvm: Kvm, slot: KvmMemorySlot, start: Gfn, end: Gfn) -> bool:
    """Drop the sptes of either MMU that map frames of a slot from `start` up to `end`; were there any?"""
    flush = kvm.shadow.kvm_rmap_zap_gfn_range(kvm, slot, start, end)
    if kvm.parameters.tdp_mmu_enabled:
        flush |= kvm.tdp.kvm_tdp_mmu_unmap_gfn_range(kvm, slot, start, end)
    return flush
