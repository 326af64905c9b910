"""Guest-physical memory as the kernel and the process reach it: through the memslots and the process."""

from mmu_model.hardware.types import PAGE_SHIFT, Gfn, Hpa
from mmu_model.kvm.memslot import (
    KVM_MEM_READONLY,
    KVM_MEMSLOT_INVALID,
    KvmMemorySlot,
    KvmMemslots,
)
from mmu_model.kvm.vm import Kvm


def is_visible(slot: KvmMemorySlot | None) -> bool:
    """Whether a guest may have anything there (kvm_is_visible_memslot)."""
    return slot is not None and not slot.flags & KVM_MEMSLOT_INVALID


class GuestMemory:
    """The memory of one address space of a VM, by guest-physical address.

    It has what a page walk needs, and what the process does with the guest's memory.

    Parameters
    ----------
    kvm :
        The VM.
    memslots :
        The address space.
    logs_dirty :
        KVM's own writes are noted in the slots as the guest's; those of the process are not.

    """

    def __init__(self, kvm: Kvm, memslots: KvmMemslots, *, logs_dirty: bool = True) -> None:
        self._kvm = kvm
        self._memslots = memslots
        self._logs_dirty = logs_dirty

    def hpa(self, gpa: int) -> Hpa | None:
        """Where a byte of the guest is in physical memory; None if there is no memory."""
        slot = self._memslots.find(gpa >> PAGE_SHIFT)
        if slot is None or slot.flags & KVM_MEMSLOT_INVALID:
            return None
        return self._kvm.process.hpa(slot.byte_hva(gpa))

    def read(self, gpa: int, size: int = 8) -> int:
        """The 4 or 8 aligned bytes at `gpa`.

        Raises
        ------
        LookupError
            There is no memory.

        """
        return self._kvm.host.memory.read(self._existing(gpa, write=False), size)

    def read_atomic(self, gpa: int, size: int = 8) -> int:
        """The same without waiting for the host: LookupError too if it has no page there just now."""
        slot = self._memslots.find(gpa >> PAGE_SHIFT)
        if slot is not None and not slot.flags & KVM_MEMSLOT_INVALID:
            hva, process = slot.byte_hva(gpa), self._kvm.process
            hpa = process.own_hpa(hva) or process.hpa(hva)
            if hpa is not None:
                return self._kvm.host.memory.read(hpa, size)
        raise LookupError(f"the host has no page for guest-physical {gpa:#x}")

    def write(self, gpa: int, value: int, size: int = 8) -> None:
        """Store 4 or 8 aligned bytes at `gpa`; errors as for :meth:`read`."""
        self._kvm.host.memory.write(self._existing(gpa, write=True), value, size)
        if self._logs_dirty:
            mark_page_dirty(self._memslots.find(gpa >> PAGE_SHIFT), Gfn(gpa >> PAGE_SHIFT))

    def compare_exchange(self, gpa: int, expected: int, value: int, size: int = 8) -> bool:
        """Store `value` if the memory still holds `expected`; say whether it did."""
        if self.read(gpa, size) != expected:
            return False
        self.write(gpa, value, size)
        return True

    def is_writable(self, gfn: int) -> bool:
        """Whether slot and process both allow writes to the frame."""
        slot = self._memslots.find(gfn)
        if slot is None or slot.flags & KVM_MEM_READONLY:
            return False
        mapping = self._kvm.process.fault_in(slot.hva(gfn), write=True)
        return mapping is not None and mapping.writable

    def _existing(self, gpa: int, *, write: bool) -> Hpa:
        slot = self._memslots.find(gpa >> PAGE_SHIFT)
        if slot is not None and not slot.flags & KVM_MEMSLOT_INVALID:
            hva, process = slot.byte_hva(gpa), self._kvm.process
            hpa = process.own_hpa(hva)
            if hpa is None and process.fault_in(hva, write=write) is not None:
                hpa = process.hpa(hva)
            if hpa is not None:
                return hpa
        raise LookupError(f"there is no memory at guest-physical {gpa:#x}")


def mark_page_dirty(slot: KvmMemorySlot | None, gfn: Gfn) -> None:
    """Note a write in the slot's dirty bitmap, if it has one (mark_page_dirty_in_slot)."""
    if slot is not None and slot.dirty_bitmap is not None:
        slot.dirty_bitmap.add(gfn)
