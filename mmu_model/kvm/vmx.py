"""What KVM does for EPT on Intel's processors alone: VM entry's EPTP, and the exits (vmx/vmx.c)."""

from typing import Final

from mmu_model.hardware.ept import (
    EPT_EXECUTE,
    EPT_READ,
    EPT_WRITE,
    EPTP_ACCESSED_DIRTY,
    EPTP_WALK_LENGTH_4,
    EPTP_WALK_LENGTH_5,
    EPTP_WRITE_BACK,
    QUALIFICATION_PAGE,
    QUALIFICATION_PERMITTED_SHIFT,
)
from mmu_model.hardware.types import PAGE_SHIFT, Gfn
from mmu_model.kvm.fault import (
    PFERR_FETCH_MASK,
    PFERR_GUEST_FINAL_MASK,
    PFERR_GUEST_PAGE_MASK,
    PFERR_PRESENT_MASK,
    PFERR_RSVD_MASK,
    PFERR_USER_MASK,
    PFERR_WRITE_MASK,
)
from mmu_model.kvm.guest_memory import mark_page_dirty
from mmu_model.kvm.nested_vmx import nested_ept_ad_enabled
from mmu_model.kvm.spte import VMX_EPT_RWX_MASK
from mmu_model.kvm.types import PT64_ROOT_5LEVEL
from mmu_model.kvm.vcpu import KvmVcpu

EPT_MISCONFIG_ERROR_CODE: Final = PFERR_RSVD_MASK
"""A misconfiguration has no qualification: all that is known is that the spte is not a valid one
(handle_ept_misconfig)."""

_ERROR_CODE: Final = {
    EPT_READ: PFERR_USER_MASK,
    EPT_WRITE: PFERR_WRITE_MASK,
    EPT_EXECUTE: PFERR_FETCH_MASK,
    VMX_EPT_RWX_MASK << QUALIFICATION_PERMITTED_SHIFT: PFERR_PRESENT_MASK,
}
"""Bits of a violation's qualification, and the bit of the error code that any of them makes."""


def construct_eptp(vcpu: KvmVcpu) -> int:
    """The EPTP for the loaded root.

    A nested guest runs without accessed and dirty flags unless its hypervisor enabled them in an EPT of its
    own (construct_eptp).
    """
    mmu = vcpu.mmu
    eptp = mmu.root.hpa | EPTP_WRITE_BACK
    eptp |= EPTP_WALK_LENGTH_5 if mmu.root_role.level == PT64_ROOT_5LEVEL else EPTP_WALK_LENGTH_4
    if vcpu.kvm.masks.accessed and (not vcpu.guest_mode or nested_ept_ad_enabled(vcpu)):
        eptp |= EPTP_ACCESSED_DIRTY
    return eptp


def vmx_flush_pml_buffer(vcpu: KvmVcpu) -> None:
    """At every exit: what the processor logged is noted as dirty."""
    if vcpu.pml is None:
        return
    for gpa in vcpu.pml.take():
        gfn = Gfn(gpa >> PAGE_SHIFT)
        mark_page_dirty(vcpu.memslots.find(gfn), gfn)


def ept_violation_error_code(exit_qualification: int) -> int:
    """The error code that KVM makes of an EPT violation, so that the MMU knows one kind of fault only.

    6.12, vmx/common.h: __vmx_handle_ept_violation; 6.1, handle_ept_violation. They differ for violations
    without a linear address, which loading PDPTEs can make: KVM loads them itself.
    """
    error_code = PFERR_GUEST_FINAL_MASK if exit_qualification & QUALIFICATION_PAGE else PFERR_GUEST_PAGE_MASK
    for bits, error in _ERROR_CODE.items():
        if exit_qualification & bits:
            error_code |= error
    return error_code


def ept_misconfig_exit(vcpu: KvmVcpu) -> None:
    """An EPT misconfiguration has no qualification, but one remembered may be KVM's only one
    (handle_ept_misconfig)."""
    if not vcpu.kvm.kernel.reflected_stage_is_the_last:
        vcpu.exit_qualification = 0
