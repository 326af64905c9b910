"""KVM_SET_USER_MEMORY_REGION: the process says which guest frames its memory backs (kvm_main.c)."""

from typing import Final

from mmu_model.hardware.types import PAGE_SHIFT, PAGE_SIZE, Gfn
from mmu_model.kvm.dirty_log import kvm_mmu_slot_apply_flags
from mmu_model.kvm.errors import KvmError
from mmu_model.kvm.memslot import (
    KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MEM_READONLY,
    KVM_MEMSLOT_INVALID,
    KvmMemorySlot,
    KvmMemslots,
)
from mmu_model.kvm.types import Hva
from mmu_model.kvm.vm import KVM_ADDRESS_SPACE_NUM, Kvm
from mmu_model.kvm.zap_all import kvm_mmu_zap_all_fast

KVM_MEMSLOT_PAGES_TO_MMU_PAGES_RATIO: Final = 50
KVM_MIN_ALLOC_MMU_PAGES: Final = 64


def add_memory_region(
    kvm: Kvm, slot_id: int, gpa: int, size: int, userspace_addr: Hva, *, flags: int = 0, as_id: int = 0
) -> KvmMemorySlot:
    """A new slot.

    Raises
    ------
    KvmError
        The region is empty, unaligned, wraps around, overlaps another, or the number is taken; or the flags
        or the address space do not exist.

    """
    slots = _address_space(kvm, as_id)
    _check(slots, slot_id, gpa, size, userspace_addr, flags)
    slot = KvmMemorySlot(
        slot_id, Gfn(gpa >> PAGE_SHIFT), size >> PAGE_SHIFT, userspace_addr, flags=flags, as_id=as_id
    )
    slots.replace(None, slot)
    kvm_swap_active_memslots(slots)
    _set_n_max_mmu_pages(kvm)
    return slot


def move_memory_region(kvm: Kvm, slot: KvmMemorySlot, gpa: int) -> KvmMemorySlot:
    """The slot, with its memory, at another address of the guest; everything is zapped meanwhile.

    Raises
    ------
    KvmError
        It would overlap another, is unaligned or wraps around; the VM is as it was.

    """
    slots = kvm.memslots[slot.as_id]
    _check(slots, slot.id, gpa, slot.npages << PAGE_SHIFT, slot.userspace_addr, slot.flags, old=slot)
    _invalidate(kvm, slot)
    slot.flags &= ~KVM_MEMSLOT_INVALID
    moved = KvmMemorySlot(
        slot.id, Gfn(gpa >> PAGE_SHIFT), slot.npages, slot.userspace_addr, slot.flags, slot.as_id
    )
    if slot.dirty_bitmap is not None:
        moved.dirty_bitmap = {Gfn(gfn - slot.base_gfn + moved.base_gfn) for gfn in slot.dirty_bitmap}
    slots.replace(slot, moved)
    kvm_swap_active_memslots(slots)
    return moved


def set_memory_region_flags(kvm: Kvm, slot: KvmMemorySlot, flags: int) -> None:
    """Switch dirty logging of a slot on or off.

    Raises
    ------
    KvmError
        A slot cannot become read-only, nor cease to be; other flags do not exist.

    """
    if (flags ^ slot.flags) & ~KVM_MEM_LOG_DIRTY_PAGES:
        raise KvmError(f"memory slot {slot.id}: of its flags only dirty logging can be changed")
    if flags == slot.flags:
        return
    slot.flags = flags
    slot.dirty_bitmap = set() if flags & KVM_MEM_LOG_DIRTY_PAGES else None
    kvm_swap_active_memslots(kvm.memslots[slot.as_id])
    kvm_mmu_slot_apply_flags(kvm, slot)


def delete_memory_region(kvm: Kvm, slot: KvmMemorySlot) -> None:
    """The guest loses a slot's memory."""
    slots = kvm.memslots[slot.as_id]
    _invalidate(kvm, slot)
    slots.replace(slot, None)
    kvm_swap_active_memslots(slots)
    _set_n_max_mmu_pages(kvm)


def kvm_swap_active_memslots(slots: KvmMemslots) -> None:
    """The changed set of slots takes effect: its generation tells that caches of the old one are out of date."""
    slots.generation += KVM_ADDRESS_SPACE_NUM


def _invalidate(kvm: Kvm, slot: KvmMemorySlot) -> None:
    """While its sptes go, the slot is there but invalid: faults on it are tried again until it is gone."""
    slot.flags |= KVM_MEMSLOT_INVALID
    kvm_swap_active_memslots(kvm.memslots[slot.as_id])
    kvm_mmu_zap_all_fast(kvm)


def _set_n_max_mmu_pages(kvm: Kvm) -> None:
    """A page for each 50 of memory, all address spaces taken together (x86.c:
    kvm_arch_commit_memory_region)."""
    pages = sum(slot.npages for slots in kvm.memslots for slot in slots)
    kvm.n_max_mmu_pages = max(pages // KVM_MEMSLOT_PAGES_TO_MMU_PAGES_RATIO, KVM_MIN_ALLOC_MMU_PAGES)


def _address_space(kvm: Kvm, as_id: int) -> KvmMemslots:
    if not 0 <= as_id < KVM_ADDRESS_SPACE_NUM:
        raise KvmError(f"address space {as_id} does not exist: there are 0 and, for SMM, 1")
    return kvm.memslots[as_id]


def _check(
    slots: KvmMemslots,
    slot_id: int,
    gpa: int,
    size: int,
    userspace_addr: int,
    flags: int,
    old: KvmMemorySlot | None = None,
) -> None:
    where = f"memory slot {slot_id} at {gpa:#x}"
    if size <= 0:
        raise KvmError(f"{where} is empty: its size is {size}")
    for name, value in ("address", gpa), ("size", size), ("address in the process", userspace_addr):
        if value % PAGE_SIZE:
            raise KvmError(f"{where}: its {name} {value:#x} is not a multiple of {PAGE_SIZE:#x}")
    if gpa < 0 or gpa + size > 1 << 64:
        raise KvmError(f"{where} wraps around the end of the address space")
    if flags & ~(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY):
        raise KvmError(f"{where}: its flags {flags:#x} do not exist")
    if old is None and slots.by_id(slot_id):
        raise KvmError(f"{where}: there is a slot of that number")
    for other in (other for other in slots if other is not old):
        if other.base_gfn < gpa + size >> PAGE_SHIFT and gpa >> PAGE_SHIFT < other.end_gfn:
            raise KvmError(f"{where} overlaps slot {other.id} at {other.base_gfn << PAGE_SHIFT:#x}")
