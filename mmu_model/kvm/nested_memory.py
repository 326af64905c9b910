"""The memory of a nested guest, as KVM reaches it: by a walk of the hypervisor's nested tables in software."""

from mmu_model.hardware.faults import EptViolation
from mmu_model.hardware.types import PAGE_SHIFT
from mmu_model.kvm.fault import PFERR_GUEST_PAGE_MASK, PFERR_USER_MASK, PFERR_WRITE_MASK
from mmu_model.kvm.guest_memory import GuestMemory
from mmu_model.kvm.guest_walk import walk_addr
from mmu_model.kvm.inject import WALK_FAULTS, kvm_inject_emulated_page_fault
from mmu_model.kvm.vcpu import KvmVcpu


def translate_nested_gpa(vcpu: KvmVcpu, ngpa: int, error_code: int, *, by_processor: bool = False) -> int:
    """The guest-physical address behind a nested one (x86.c: translate_nested_gpa).

    Parameters
    ----------
    vcpu, ngpa :
        Who runs a nested guest over nested tables, and the address.
    error_code :
        What is done there, as PFERR_* bits. KVM makes every such access one of a user, because those of NPT
        are; over EPT that is a read besides whatever else it is, which refuses fetches from a page that can
        only be executed.
    by_processor :
        KVM does here what the processor does, with the exit that it would have made.

    Raises
    ------
    Fault
        The exit that the hypervisor gets.

    """
    mmu = vcpu.guest_mmu
    access = mmu.access_of(error_code | PFERR_USER_MASK)
    try:
        walker = walk_addr(GuestMemory(vcpu.kvm, vcpu.memslots), mmu.guest_paging, access, ngpa)
    except WALK_FAULTS as fault:
        if by_processor and isinstance(fault, EptViolation):
            vcpu.exit_qualification = fault.exit_qualification
        raise kvm_inject_emulated_page_fault(vcpu, mmu, fault, from_hardware=by_processor) from None
    return walker.gfn << PAGE_SHIFT | ngpa & 0xFFF


class NestedGuestMemory:
    """Memory by nested guest-physical address, for a walk of the nested guest's own tables.

    KVM takes every access to a table for a write, as NPT does, also over EPT without accessed and dirty
    flags, where the processor only reads (walk_addr_generic: nested_access).
    """

    def __init__(self, vcpu: KvmVcpu) -> None:
        self._vcpu = vcpu
        self._memory = GuestMemory(vcpu.kvm, vcpu.memslots)

    def read(self, address: int, size: int = 8) -> int:
        """The 4 or 8 aligned bytes; LookupError if the hypervisor has no memory there."""
        return self._memory.read(self._gpa(address), size)

    def compare_exchange(self, address: int, expected: int, value: int, size: int = 8) -> bool:
        """Store `value` if the memory still holds `expected`; say whether it did."""
        return self._memory.compare_exchange(self._gpa(address), expected, value, size)

    def is_writable(self, gfn: int) -> bool:
        """Whether slot and process both allow writes to the frame."""
        return self._memory.is_writable(self._gpa(gfn << PAGE_SHIFT) >> PAGE_SHIFT)

    def _gpa(self, ngpa: int) -> int:
        return translate_nested_gpa(self._vcpu, ngpa, PFERR_WRITE_MASK | PFERR_GUEST_PAGE_MASK)


class _PdpteMemory(NestedGuestMemory):
    """The same for the PDPTEs that MOV CR3 loads: the processor reads them, and no linear address is why."""

    def _gpa(self, ngpa: int) -> int:
        return translate_nested_gpa(self._vcpu, ngpa, 0, by_processor=True)


def table_memory(vcpu: KvmVcpu) -> GuestMemory | NestedGuestMemory:
    """The memory that the guest's own tables are in, for a walk of them."""
    return NestedGuestMemory(vcpu) if vcpu.is_nested_mmu else GuestMemory(vcpu.kvm, vcpu.memslots)


def pdpte_memory(vcpu: KvmVcpu) -> GuestMemory | NestedGuestMemory:
    """The memory that PDPTEs are loaded from."""
    return _PdpteMemory(vcpu) if vcpu.is_nested_mmu else GuestMemory(vcpu.kvm, vcpu.memslots)
