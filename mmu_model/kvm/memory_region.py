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
from mmu_model.kvm.spte import MMIO_SPTE_GEN_MASK
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
    slots.replace(None, slot)
    kvm_swap_active_memslots(kvm, slots)
    return slot


def delete_memory_region(kvm: Kvm, slot: KvmMemorySlot) -> None:
    """The guest loses a slot's memory.

    While its sptes go, the slot is there but invalid: faults on it are tried again until it is gone.
    """
    slots = kvm.memslots[slot.as_id]
    slot.flags |= KVM_MEMSLOT_INVALID
    kvm_swap_active_memslots(kvm, slots)
    kvm_mmu_zap_all_fast(kvm)
    slots.replace(slot, None)
    kvm_swap_active_memslots(kvm, slots)


def kvm_swap_active_memslots(kvm: Kvm, slots: KvmMemslots) -> None:
    """The changed set of slots takes effect.

    Until everybody who may still work with the old set has finished, the generation has a flag that makes
    whatever is remembered meanwhile good for nothing.
    """
    slots.generation |= KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS
    finish_memslots_update(kvm, slots)


def finish_memslots_update(kvm: Kvm, slots: KvmMemslots) -> None:
    """Nobody works with the old set any more (`synchronize_srcu` has returned): the next generation begins.

    Each address space has generations of its own, for all are counted in steps of their number.
    """
    generation = (slots.generation & ~KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS) + KVM_ADDRESS_SPACE_NUM
    kvm_mmu_invalidate_mmio_sptes(kvm, generation)
    slots.generation = generation


def kvm_mmu_invalidate_mmio_sptes(kvm: Kvm, generation: int) -> None:
    """MMIO sptes keep only some bits of a generation: when those begin again at 0, all pages go (mmu.c)."""
    if not generation & MMIO_SPTE_GEN_MASK & ~(KVM_ADDRESS_SPACE_NUM - 1):
        kvm_mmu_zap_all_fast(kvm)


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
