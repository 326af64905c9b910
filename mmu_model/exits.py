"""What makes the host's processor leave the guest in the middle of an instruction, as KVM sees it."""

from mmu_model.hardware.faults import EptMisconfiguration, EptViolation, Fault, NestedPageFault, PageFault
from mmu_model.hardware.pml import PageModificationLogFull
from mmu_model.kvm.vcpu import KvmVcpu
from mmu_model.kvm.vmx import EPT_MISCONFIG_ERROR_CODE, ept_misconfig_exit, ept_violation_error_code


class VmExit(Exception):
    """The processor left the guest in the middle of an instruction.

    Attributes
    ----------
    fault :
        The address, gva or gpa, and error code of a fault that is KVM's business; None if the guest can
        simply go on.

    """

    def __init__(self, fault: tuple[int, int] | None) -> None:
        self.fault = fault


def exit_of(vcpu: KvmVcpu, fault: Fault) -> VmExit | None:
    """The exit that a fault makes; None if the guest gets it without KVM.

    With nested paging page faults are none of KVM's business (svm.c: init_vmcb; vmx.c:
    vmx_update_exception_bitmap).
    """
    match fault:
        case PageFault() if not vcpu.kvm.parameters.tdp_enabled:
            return VmExit((fault.cr2, fault.error_code))
        case NestedPageFault():
            vcpu.exit = fault
            return VmExit((fault.exit_info_2, fault.exit_info_1))
        case EptViolation():
            vcpu.exit_qualification = fault.exit_qualification
            return VmExit((fault.gpa, ept_violation_error_code(fault.exit_qualification)))
        case EptMisconfiguration():
            ept_misconfig_exit(vcpu)
            return VmExit((fault.gpa, EPT_MISCONFIG_ERROR_CODE))
        case PageModificationLogFull():
            return VmExit(None)
    return None
