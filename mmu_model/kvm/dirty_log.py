"""Dirty logging: which frames of a slot were written since it was last asked (kvm_main.c, x86.c, mmu.c)."""

from mmu_model.hardware.types import Gfn
from mmu_model.kvm.errors import KvmError
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, KvmMemorySlot
from mmu_model.kvm.requests import flush_remote_tlbs, kvm_vcpu_kick
from mmu_model.kvm.task import Steps, finish
from mmu_model.kvm.types import PG_LEVEL_2M
from mmu_model.kvm.vm import Kvm


def kvm_vm_ioctl_get_dirty_log(kvm: Kvm, slot: KvmMemorySlot) -> set[Gfn]:
    """KVM_GET_DIRTY_LOG: the frames written. Unless the process protects them itself, logging starts anew.

    Raises
    ------
    KvmError
        The slot's writes are not logged.

    """
    return finish(get_dirty_log(kvm, slot))


def get_dirty_log(kvm: Kvm, slot: KvmMemorySlot) -> Steps[set[Gfn]]:
    """:func:`kvm_vm_ioctl_get_dirty_log`, that the guest's writes may overtake."""
    found = _bitmap(slot)
    yield from kvm.slots_lock.wait()
    with kvm.slots_lock:
        sync_dirty_log(kvm)
        if kvm.manual_dirty_log_protect:
            return set(found)
        return (yield from _clear(kvm, slot, found))


def sync_dirty_log(kvm: Kvm) -> None:
    """What processors have logged is in the bitmap when vCPUs are outside: get them there
    (kvm_arch_sync_dirty_log). Nobody waits for it: what comes too late is found next time.
    """
    if kvm.parameters.pml:
        for vcpu in kvm.vcpus:
            kvm_vcpu_kick(vcpu)


def kvm_clear_dirty_log(kvm: Kvm, slot: KvmMemorySlot, gfns: set[Gfn]) -> None:
    """KVM_CLEAR_DIRTY_LOG: write-protect those of the frames that were written, to log them once more.

    Raises
    ------
    KvmError
        The slot's writes are not logged.

    """
    finish(clear_dirty_log(kvm, slot, gfns))


def clear_dirty_log(kvm: Kvm, slot: KvmMemorySlot, gfns: set[Gfn]) -> Steps[None]:
    """:func:`kvm_clear_dirty_log`, that the guest's writes may overtake."""
    yield from kvm.slots_lock.wait()
    with kvm.slots_lock:
        sync_dirty_log(kvm)
        yield from _clear(kvm, slot, gfns)


def _clear(kvm: Kvm, slot: KvmMemorySlot, gfns: set[Gfn]) -> Steps[set[Gfn]]:
    """Take frames from the bitmap first, then what lets the guest write to them unseen, then that out of the
    TLBs; those that were in the bitmap."""
    bitmap = _bitmap(slot)
    yield from kvm.mmu_lock.write.wait()
    with kvm.mmu_lock.write:
        cleared = bitmap & gfns
        bitmap -= cleared
        yield "has cleared the bitmap"
        if kvm.parameters.tdp_mmu_enabled:
            wrprot = not kvm.parameters.pml
            yield from kvm.tdp.kvm_tdp_mmu_clear_dirty_pt_masked(kvm, slot, cleared, wrprot=wrprot)
        kvm.shadow.kvm_mmu_write_protect_gfns(kvm, slot, sorted(cleared))
    if cleared:
        yield from flush_remote_tlbs(kvm)
    return cleared


def _bitmap(slot: KvmMemorySlot) -> set[Gfn]:
    if slot.dirty_bitmap is None:
        raise KvmError(f"memory slot {slot.id} has no dirty log")
    return slot.dirty_bitmap


def kvm_mmu_slot_apply_flags(kvm: Kvm, slot: KvmMemorySlot) -> Steps[None]:
    """Logging was switched on or off for a slot.

    On: no write may go unseen, so everything is write-protected, by the TDP MMU in small pages; where the
    processor logs writes, small pages are made clean. Off: what could be large pages again is dropped.
    """
    if slot.flags & KVM_MEM_READONLY:
        return
    if slot.flags & KVM_MEM_LOG_DIRTY_PAGES:
        yield from _begin_logging(kvm, slot)
    else:
        yield from _end_logging(kvm, slot)


def _begin_logging(kvm: Kvm, slot: KvmMemorySlot) -> Steps[None]:
    if kvm.parameters.tdp_mmu_enabled:
        yield from kvm.mmu_lock.read.wait()
        with kvm.mmu_lock.read:
            yield from kvm.tdp.kvm_tdp_mmu_try_split_huge_pages(kvm, slot)
    yield from kvm.mmu_lock.write.wait()
    with kvm.mmu_lock.write:
        kvm.shadow.kvm_mmu_slot_remove_write_access(kvm, slot)
    if kvm.parameters.tdp_mmu_enabled:
        yield from kvm.mmu_lock.read.wait()
        with kvm.mmu_lock.read:
            if kvm.parameters.pml:
                yield from kvm.tdp.kvm_tdp_mmu_clear_dirty_slot(kvm, slot)
                yield from kvm.tdp.kvm_tdp_mmu_wrprot_slot(kvm, slot, PG_LEVEL_2M)
            else:
                yield from kvm.tdp.kvm_tdp_mmu_wrprot_slot(kvm, slot)
    yield from flush_remote_tlbs(kvm)


def _end_logging(kvm: Kvm, slot: KvmMemorySlot) -> Steps[None]:
    yield from kvm.mmu_lock.write.wait()
    with kvm.mmu_lock.write:
        kvm.shadow.kvm_rmap_zap_collapsible_sptes(kvm, slot)
    if kvm.parameters.tdp_mmu_enabled:
        yield from kvm.mmu_lock.read.wait()
        with kvm.mmu_lock.read:
            yield from kvm.tdp.kvm_tdp_mmu_zap_collapsible_sptes(kvm, slot)
