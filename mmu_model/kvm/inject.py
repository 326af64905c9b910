"""A fault that the guest's own tables make: whose it is, and what of KVM's goes with it (x86.c)."""

from mmu_model.hardware.faults import EptMisconfiguration, EptViolation, Fault, PageFault
from mmu_model.kvm.fault import PFERR_PRESENT_MASK, PFERR_RSVD_MASK
from mmu_model.kvm.mmu import KvmMmu
from mmu_model.kvm.vcpu import KvmVcpu

WALK_FAULTS = PageFault, EptViolation, EptMisconfiguration
"""What a walk of a guest's tables in software can end in, besides #GP for an address that cannot be."""


def kvm_inject_page_fault(vcpu: KvmVcpu, fault: Fault, *, from_hardware: bool) -> Fault:
    """The guest whose own paging it is gets the fault as it is."""
    return fault


def kvm_inject_emulated_page_fault(vcpu: KvmVcpu, mmu: KvmMmu, fault: Fault, *, from_hardware: bool) -> Fault:
    """What the guest gets, or, for a nested guest, its hypervisor.

    As on a processor, the translation that denied the access is forgotten.

    Parameters
    ----------
    vcpu, mmu :
        Who faulted, and by whose tables.
    fault :
        What the walk of those tables ended in.
    from_hardware :
        The processor exited for that very access; otherwise KVM came upon it while it emulated one.

    """
    address = denied_address(fault)
    if address is not None:
        vcpu.kvm.shadow.kvm_mmu_invalidate_addr(vcpu, address, mmu.root)
    return mmu.inject_page_fault(vcpu, fault, from_hardware=from_hardware)


def denied_address(fault: Fault) -> int | None:
    """The address of an access that a present and well-formed translation denied; None for other faults."""
    if isinstance(fault, EptViolation):
        return fault.gpa if fault.permitted else None
    if isinstance(fault, PageFault):
        bits = fault.error_code & (PFERR_PRESENT_MASK | PFERR_RSVD_MASK)
        return fault.cr2 if bits == PFERR_PRESENT_MASK else None
    return None
