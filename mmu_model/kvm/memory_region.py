"""KVM_SET_USER_MEMORY_REGION: the process says which guest frames its memory backs (kvm_main.c)."""

from mmu_model.hardware.types import PAGE_SHIFT, PAGE_SIZE, Gfn
from mmu_model.kvm.errors import KvmError
from mmu_model.kvm.memslot import (
    KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MEM_READONLY,
    KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS,
    KVM_MEMSLOT_INVALID,
    KvmMemorySlot,
    KvmMemslots,
)
from mmu_model.kvm.task import Steps, finish
from mmu_model.kvm.types import Hva
from mmu_model.kvm.vm import KVM_ADDRESS_SPACE_NUM, Kvm
from mmu_model.kvm.zap_all import kvm_mmu_zap_all_fast


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
    finish(create_slot(kvm, slot))
    return slot


def delete_memory_region(kvm: Kvm, slot: KvmMemorySlot) -> None:
    """The guest loses a slot's memory."""
    finish(delete_slot(kvm, slot))


def create_slot(kvm: Kvm, slot: KvmMemorySlot) -> Steps[None]:
    """There is memory where there was none; faults may go on meanwhile."""
    yield from kvm.slots_lock.wait()
    with kvm.slots_lock:
        yield from kvm_swap_active_memslots(kvm, kvm.memslots[slot.as_id], None, slot)


def delete_slot(kvm: Kvm, slot: KvmMemorySlot) -> Steps[None]:
    """There is no memory any more; faults may go on meanwhile.

    While its sptes go, the slot is there but invalid: faults on it are tried again until it is gone.
    """
    slots = kvm.memslots[slot.as_id]
    yield from kvm.slots_lock.wait()
    with kvm.slots_lock:
        slot.flags |= KVM_MEMSLOT_INVALID
        yield from kvm_swap_active_memslots(kvm, slots, slot, slot)
        yield from kvm_mmu_zap_all_fast(kvm)
        yield from kvm_swap_active_memslots(kvm, slots, slot, None)


def kvm_swap_active_memslots(
    kvm: Kvm, slots: KvmMemslots, old: KvmMemorySlot | None, new: KvmMemorySlot | None
) -> Steps[None]:
    """The changed set of slots takes effect: its generation tells that caches of the old one are out of date.

    Until nobody looks at the old set any more, the generation is the old one with a bit that says so; only
    then it is a new one. Thus what was seen in the old set is never kept under the new generation.
    """
    kvm.slots_lock.assert_held()
    generation = slots.generation
    slots.replace(old, new)
    slots.generation = generation | KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS
    yield from kvm.srcu.synchronize()
    slots.generation = generation + KVM_ADDRESS_SPACE_NUM


def _address_space(kvm: Kvm, as_id: int) -> KvmMemslots:
    if not 0 <= as_id < KVM_ADDRESS_SPACE_NUM:
        raise KvmError(f"address space {as_id} does not exist: there are 0 and, for SMM, 1")
    return kvm.memslots[as_id]


def _check(slots: KvmMemslots, slot_id: int, gpa: int, size: int, userspace_addr: int, flags: int) -> None:
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
    if slots.by_id(slot_id):
        raise KvmError(f"{where}: there is a slot of that number")
    for other in slots:
        if other.base_gfn < gpa + size >> PAGE_SHIFT and gpa >> PAGE_SHIFT < other.end_gfn:
            raise KvmError(f"{where} overlaps slot {other.id} at {other.base_gfn << PAGE_SHIFT:#x}")
