"""KVM_SET_USER_MEMORY_REGION: the process says which guest frames its memory backs (kvm_main.c)."""

from typing import Final

from mmu_model.hardware.types import PAGE_SHIFT, PAGE_SIZE, Gfn
from mmu_model.kvm.dirty_log import kvm_mmu_slot_apply_flags
from mmu_model.kvm.errors import KvmError
from mmu_model.kvm.memslot import (
    KVM_MEM_GUEST_MEMFD,
    KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MEM_READONLY,
    KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS,
    KVM_MEMSLOT_INVALID,
    KvmMemorySlot,
    KvmMemslots,
)
from mmu_model.kvm.notifier import wait_for_invalidations
from mmu_model.kvm.spte import MMIO_SPTE_GEN_MASK
from mmu_model.kvm.task import Steps, finish
from mmu_model.kvm.types import Hva
from mmu_model.kvm.vm import KVM_ADDRESS_SPACE_NUM, Kvm
from mmu_model.kvm.zap_all import kvm_mmu_zap_all_fast

KVM_MEMSLOT_PAGES_TO_MMU_PAGES_RATIO: Final = 50
KVM_MIN_ALLOC_MMU_PAGES: Final = 64

_MAX_PHYS_BITS: Final = 52


def add_memory_region(
    kvm: Kvm, slot_id: int, gpa: int, size: int, userspace_addr: Hva, *, flags: int = 0, as_id: int = 0
) -> KvmMemorySlot:
    """A new slot.

    Raises
    ------
    KvmError
        The region is empty, unaligned, wraps around, lies beyond the address width, overlaps another, or the
        number is taken; or the flags or the address space do not exist.

    """
    check_region(kvm, address_space(kvm, as_id), slot_id, gpa, size, userspace_addr, flags)
    slot = KvmMemorySlot(
        slot_id, Gfn(gpa >> PAGE_SHIFT), size >> PAGE_SHIFT, userspace_addr, flags=flags, as_id=as_id
    )
    finish(create_slot(kvm, slot))
    return slot


def move_memory_region(kvm: Kvm, slot: KvmMemorySlot, gpa: int) -> KvmMemorySlot:
    """The slot, with its memory, at another address of the guest; everything is zapped meanwhile.

    Raises
    ------
    KvmError
        It would overlap another, is unaligned or wraps around, or has private memory; the VM is as it was.

    """
    _refuse_private(slot)
    slots = kvm.memslots[slot.as_id]
    check_region(
        kvm, slots, slot.id, gpa, slot.npages << PAGE_SHIFT, slot.userspace_addr, slot.flags, old=slot
    )
    moved = KvmMemorySlot(
        slot.id, Gfn(gpa >> PAGE_SHIFT), slot.npages, slot.userspace_addr, slot.flags, slot.as_id
    )
    if slot.dirty_bitmap is not None:
        moved.dirty_bitmap = {Gfn(gfn - slot.base_gfn + moved.base_gfn) for gfn in slot.dirty_bitmap}
    finish(replace_slot(kvm, slot, moved))
    return moved


def set_memory_region_flags(kvm: Kvm, slot: KvmMemorySlot, flags: int) -> None:
    """Switch dirty logging of a slot on or off.

    Raises
    ------
    KvmError
        A slot cannot become read-only, nor cease to be; other flags do not exist. One with private memory
        keeps its flags.

    """
    _refuse_private(slot)
    if (flags ^ slot.flags) & ~KVM_MEM_LOG_DIRTY_PAGES:
        raise KvmError(f"memory slot {slot.id}: of its flags only dirty logging can be changed")
    if flags != slot.flags:
        finish(change_slot_flags(kvm, slot, flags))


def delete_memory_region(kvm: Kvm, slot: KvmMemorySlot) -> None:
    """The guest loses a slot's memory."""
    finish(replace_slot(kvm, slot, None))


def create_slot(kvm: Kvm, slot: KvmMemorySlot) -> Steps[None]:
    """There is memory where there was none; faults may go on meanwhile."""
    yield from kvm.slots_lock.wait()
    with kvm.slots_lock:
        yield from kvm_swap_active_memslots(kvm, kvm.memslots[slot.as_id], None, slot)
        _set_n_max_mmu_pages(kvm)


def replace_slot(kvm: Kvm, slot: KvmMemorySlot, moved: KvmMemorySlot | None) -> Steps[None]:
    """There is no memory any more, or it is elsewhere; faults may go on meanwhile.

    While its sptes go, the slot is there but invalid: faults on it are tried again until it is gone.
    """
    slots = kvm.memslots[slot.as_id]
    yield from kvm.slots_lock.wait()
    with kvm.slots_lock:
        yield from kvm_swap_active_memslots(kvm, slots, slot, slot, slot.flags | KVM_MEMSLOT_INVALID)
        yield from kvm_mmu_zap_all_fast(kvm)
        yield from kvm_swap_active_memslots(kvm, slots, slot, moved)
        _set_n_max_mmu_pages(kvm)


def change_slot_flags(kvm: Kvm, slot: KvmMemorySlot, flags: int) -> Steps[None]:
    """Nothing is zapped; what the flags mean for sptes follows once they are in effect."""
    yield from kvm.slots_lock.wait()
    with kvm.slots_lock:
        slot.dirty_bitmap = set() if flags & KVM_MEM_LOG_DIRTY_PAGES else None
        yield from kvm_swap_active_memslots(kvm, kvm.memslots[slot.as_id], slot, slot, flags)
        yield from kvm_mmu_slot_apply_flags(kvm, slot)


def kvm_swap_active_memslots(
    kvm: Kvm,
    slots: KvmMemslots,
    old: KvmMemorySlot | None,
    new: KvmMemorySlot | None,
    flags: int | None = None,
) -> Steps[None]:
    """The changed set of slots takes effect, with other flags of the new slot if there are any.

    Not while the host is changing mappings. Until everybody who may still work with the old set has finished,
    the generation has a flag that makes whatever is remembered meanwhile good for nothing: what was seen in the
    old set is never kept under the new generation.
    """
    kvm.slots_lock.assert_held()
    yield from wait_for_invalidations(kvm)
    slots.replace(old, new)
    if new is not None and flags is not None:
        new.flags = flags
    slots.generation |= KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS
    yield from kvm.srcu.synchronize()
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
        finish(kvm_mmu_zap_all_fast(kvm))


def _set_n_max_mmu_pages(kvm: Kvm) -> None:
    """A page for each 50 of memory, all address spaces taken together (x86.c:
    kvm_arch_commit_memory_region)."""
    pages = sum(slot.npages for slots in kvm.memslots for slot in slots)
    kvm.n_max_mmu_pages = max(pages // KVM_MEMSLOT_PAGES_TO_MMU_PAGES_RATIO, KVM_MIN_ALLOC_MMU_PAGES)


def address_space(kvm: Kvm, as_id: int) -> KvmMemslots:
    """The memslots of an address space; raises KvmError if it does not exist."""
    if not 0 <= as_id < KVM_ADDRESS_SPACE_NUM:
        raise KvmError(f"address space {as_id} does not exist: there are 0 and, for SMM, 1")
    return kvm.memslots[as_id]


def check_region(
    kvm: Kvm,
    slots: KvmMemslots,
    slot_id: int,
    gpa: int,
    size: int,
    userspace_addr: int,
    flags: int,
    old: KvmMemorySlot | None = None,
) -> None:
    """Raises KvmError if there cannot be such a slot; `old` is the slot that it replaces."""
    where = f"memory slot {slot_id} at {gpa:#x}"
    if size <= 0:
        raise KvmError(f"{where} is empty: its size is {size}")
    for name, value in ("address", gpa), ("size", size), ("address in the process", userspace_addr):
        if value % PAGE_SIZE:
            raise KvmError(f"{where}: its {name} {value:#x} is not a multiple of {PAGE_SIZE:#x}")
    if gpa < 0 or gpa + size > 1 << 64:
        raise KvmError(f"{where} wraps around the end of the address space")
    if gpa + size > 1 << _max_gpa_bits(kvm):
        raise KvmError(
            f"{where} reaches beyond the {_max_gpa_bits(kvm)} bits that guest-physical addresses have"
        )
    if flags & ~_valid_flags(kvm, flags):
        raise KvmError(f"{where}: its flags {flags:#x} do not exist")
    if old is None and slots.by_id(slot_id):
        raise KvmError(f"{where}: there is a slot of that number")
    for other in (other for other in slots if other is not old):
        if other.base_gfn < gpa + size >> PAGE_SHIFT and gpa >> PAGE_SHIFT < other.end_gfn:
            raise KvmError(f"{where} overlaps slot {other.id} at {other.base_gfn << PAGE_SHIFT:#x}")


def _valid_flags(kvm: Kvm, flags: int) -> int:
    """Those that a slot may have (check_memory_region_flags): with private memory it has no others."""
    if flags & KVM_MEM_GUEST_MEMFD and kvm.parameters.private_memory:
        return KVM_MEM_GUEST_MEMFD
    return KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY


def _refuse_private(slot: KvmMemorySlot) -> None:
    if slot.flags & KVM_MEM_GUEST_MEMFD:
        raise KvmError(f"memory slot {slot.id} has private memory: it can only be deleted")


def _max_gpa_bits(kvm: Kvm) -> int:
    """How many bits the address of a frame may have that an spte stands for (mmu.h: kvm_mmu_max_gfn)."""
    return kvm.host.memory.maxphyaddr if kvm.parameters.tdp_enabled else _MAX_PHYS_BITS
