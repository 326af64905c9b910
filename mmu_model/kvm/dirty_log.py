"""Dirty logging: which frames of a slot were written since it was last asked (kvm_main.c, x86.c, mmu.c)."""

from mmu_model.hardware.types import Gfn
from mmu_model.kvm.errors import KvmError
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, KvmMemorySlot
from mmu_model.kvm.vm import Kvm


def kvm_vm_ioctl_get_dirty_log(kvm: Kvm, slot: KvmMemorySlot) -> set[Gfn]:
    """KVM_GET_DIRTY_LOG: the frames written. Unless the process protects them itself, logging starts anew.

    Raises
    ------
    KvmError
        The slot's writes are not logged.

    """
    found = set(_bitmap(slot))
    if not kvm.manual_dirty_log_protect:
        kvm_clear_dirty_log(kvm, slot, found)
    return found


def kvm_clear_dirty_log(kvm: Kvm, slot: KvmMemorySlot, gfns: set[Gfn]) -> None:
    """KVM_CLEAR_DIRTY_LOG: write-protect those of the frames that were written, to log them once more.

    Raises
    ------
    KvmError
        The slot's writes are not logged.

    """
    bitmap = _bitmap(slot)
    cleared = sorted(bitmap & gfns)
    bitmap -= gfns
    with kvm.mmu_lock.write:
        if kvm.parameters.tdp_mmu_enabled:
            kvm.tdp.kvm_tdp_mmu_write_protect_gfns(kvm, slot, cleared)
        kvm.shadow.kvm_mmu_write_protect_gfns(kvm, slot, cleared)
    if cleared:
        kvm.flush_remote_tlbs()


def _bitmap(slot: KvmMemorySlot) -> set[Gfn]:
    if slot.dirty_bitmap is None:
        raise KvmError(f"memory slot {slot.id} has no dirty log")
    return slot.dirty_bitmap


def kvm_mmu_slot_apply_flags(kvm: Kvm, slot: KvmMemorySlot) -> None:
    """Logging was switched on or off for a slot.

    On: no write may go unseen, so everything is write-protected, by the TDP MMU in small pages. Off: what could
    be large pages again is dropped.
    """
    if slot.flags & KVM_MEM_READONLY:
        return
    shadow, tdp, tdp_mmu = kvm.shadow, kvm.tdp, kvm.parameters.tdp_mmu_enabled
    if not slot.flags & KVM_MEM_LOG_DIRTY_PAGES:
        with kvm.mmu_lock.write:
            shadow.kvm_rmap_zap_collapsible_sptes(kvm, slot)
        if tdp_mmu:
            with kvm.mmu_lock.read:
                tdp.kvm_tdp_mmu_zap_collapsible_sptes(kvm, slot)
        return
    if tdp_mmu:
        with kvm.mmu_lock.read:
            tdp.kvm_tdp_mmu_try_split_huge_pages(kvm, slot)
    with kvm.mmu_lock.write:
        shadow.kvm_mmu_slot_remove_write_access(kvm, slot)
    if tdp_mmu:
        with kvm.mmu_lock.read:
            tdp.kvm_tdp_mmu_wrprot_slot(kvm, slot)
    kvm.flush_remote_tlbs()
