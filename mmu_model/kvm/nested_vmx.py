"""A guest that is a hypervisor itself runs a guest of its own, on Intel's processors (vmx/nested.c).

Its EPT translates ngpa to gpa; KVM shadows it by an EPT of its own, from ngpa to hpa, which the processor
walks. After EPTP the two are called EPT12 and EPT02.
"""

from typing import Final

from mmu_model.hardware.ept import (
    EPTP_ACCESSED_DIRTY,
    EPTP_ROOT,
    EPTP_WRITE_BACK,
    QUALIFICATION_LINEAR_ADDRESS,
    QUALIFICATION_PAGE,
    ExtendedPaging,
)
from mmu_model.hardware.faults import EptMisconfiguration, EptViolation, Fault, GeneralProtection
from mmu_model.hardware.linear import Pdptes
from mmu_model.hardware.pdptes import check_pdptes
from mmu_model.hardware.registers import Mode, Registers
from mmu_model.kvm.context import kvm_init_mmu
from mmu_model.kvm.cpu_role import shadow_ept_cpu_role
from mmu_model.kvm.errors import KvmError, VmEntryFailure
from mmu_model.kvm.mmu import RootInfo
from mmu_model.kvm.nested import entering_guest_mode, leave_guest_mode, load_cr3
from mmu_model.kvm.page import root_to_sp
from mmu_model.kvm.roots import kvm_mmu_free_roots, kvm_mmu_new_pgd
from mmu_model.kvm.task import finish
from mmu_model.kvm.vcpu import KVM_REQ_LOAD_MMU_PGD, KVM_REQ_TLB_FLUSH_GUEST, KvmVcpu

EXECUTE_ONLY: Final = True
"""KVM offers what the processor has, and those that the model knows have it (nested_vmx_setup_secondary_ctls)."""

_STAGE: Final = QUALIFICATION_LINEAR_ADDRESS | QUALIFICATION_PAGE
_MEMORY_TYPE: Final = 7


def enter_nested_vmx(
    vcpu: KvmVcpu,
    registers: Registers,
    eptp: int | None,
    *,
    vpid: int = 0,
    pdptes: Pdptes | None = None,
) -> None:
    """VMLAUNCH or VMRESUME: from now on the vCPU runs the inner guest (nested_vmx_enter_non_root_mode).

    Parameters
    ----------
    vcpu :
        The vCPU; its registers now are those of the hypervisor.
    registers :
        The inner guest's.
    eptp :
        The hypervisor's EPT; None if it uses none: then its guest's addresses are its own.
    vpid :
        That of the inner guest; 0 if the hypervisor gives it none.
    pdptes :
        With EPT, and with PAE paging in the inner guest: its PDPTE registers, as the VMCS has them.

    Raises
    ------
    VmEntryFailure
        The processor that KVM presents refuses the EPTP or the PDPTEs, or has no EPT; the VM is as it was.
    KvmError
        The vCPU is in an inner guest already.
    GeneralProtection
        The inner guest uses no EPT, and its PDPTEs in memory are malformed.

    """
    ept = None if eptp is None else nested_ept(vcpu, eptp)
    loaded = _checked_pdptes(registers, pdptes) if ept else None
    with entering_guest_mode(vcpu):
        if ept is None or eptp is None:
            load_cr3(vcpu, registers)
        else:
            kvm_init_shadow_ept_mmu(vcpu, eptp, ept)
            vcpu.registers, vcpu.pdptes = registers, loaded
            kvm_init_mmu(vcpu)
    _transition_tlb_flush(vcpu, vpid)


def leave_nested_vmx(vcpu: KvmVcpu, *, vpid: int = 0) -> None:
    """VM exit to the hypervisor (nested_vmx_vmexit)."""
    leave_guest_mode(vcpu)
    _transition_tlb_flush(vcpu, vpid)


def nested_ept(vcpu: KvmVcpu, eptp: int) -> ExtendedPaging:
    """EPT12, as the processor that the hypervisor sees walks it (nested_vmx_check_eptp).

    It has all that the host's has, except that tables in uncacheable memory are not offered.

    Raises
    ------
    VmEntryFailure
        VM entry fails with this EPTP.

    """
    parameters = vcpu.kvm.parameters
    if not parameters.ept_enabled:
        raise VmEntryFailure("without EPT on the host there is none for the guest to use")
    registers = vcpu.l1_registers or vcpu.registers
    try:
        ept = ExtendedPaging(eptp, exec_only=EXECUTE_ONLY, maxphyaddr=registers.maxphyaddr)
    except ValueError as error:
        raise VmEntryFailure(f"{error}; KVM lets no guest be entered with it") from None
    level = ept.steps[0].level
    for refused, reason in (
        (eptp & _MEMORY_TYPE != EPTP_WRITE_BACK, "KVM offers memory type 6 (bits 2:0) alone"),
        (level > parameters.max_tdp_level, f"the host's EPT has {parameters.max_tdp_level} levels"),
        (ept.flags_kept and not vcpu.kvm.masks.accessed, "the host's EPT has no accessed and dirty flags"),
    ):
        if refused:
            raise VmEntryFailure(f"EPTP {eptp:#x}: {reason}")
    return ept


def _checked_pdptes(registers: Registers, pdptes: Pdptes | None) -> Pdptes | None:
    if registers.mode is not Mode.PAE:
        return None
    if pdptes is None:
        raise VmEntryFailure("a guest with PAE paging over EPT has PDPTEs in its VMCS: give them")
    try:
        check_pdptes(pdptes, registers.maxphyaddr)
    except GeneralProtection as error:
        raise VmEntryFailure(str(error)) from None
    return pdptes


def kvm_init_shadow_ept_mmu(vcpu: KvmVcpu, eptp: int, ept: ExtendedPaging) -> None:
    """`vcpu.guest_mmu` shadows the hypervisor's EPT.

    EPT02 has as many levels as EPT12, and the walk of EPT02 sets flags only if that of EPT12 is to.
    """
    mmu = vcpu.mmu = vcpu.guest_mmu
    mmu.cpu_role = shadow_ept_cpu_role(
        level=ept.steps[0].level, accessed_dirty=ept.flags_kept, execonly=EXECUTE_ONLY
    )
    mmu.root_role = mmu.cpu_role.base
    mmu.guest_paging = ept
    mmu.guest_pgd = eptp
    mmu.page_fault = vcpu.kvm.shadow.paging_page_fault
    mmu.sync_spte = vcpu.kvm.shadow.sync_spte
    mmu.inject_page_fault = nested_ept_inject_page_fault
    kvm_mmu_new_pgd(vcpu, eptp)


def nested_ept_inject_page_fault(vcpu: KvmVcpu, fault: Fault, *, from_hardware: bool) -> Fault:
    """The VM exit that the hypervisor gets: EPT violation or EPT misconfiguration.

    What the access was for, bits 8:7 of the qualification, the processor knows and KVM's walk of EPT12 does
    not. What is remembered of the address below other roots of the same tables goes, as it goes from a TLB.
    """
    if isinstance(fault, EptMisconfiguration):
        _invalidate_addr(vcpu, fault.gpa)
    elif isinstance(fault, EptViolation):
        _invalidate_addr(vcpu, fault.gpa)
        if from_hardware or vcpu.kvm.kernel.reflected_stage_is_the_last:
            qualification = fault.exit_qualification & ~_STAGE | vcpu.exit_qualification & _STAGE
            return EptViolation(qualification, fault.gpa)
    return fault


def _invalidate_addr(vcpu: KvmVcpu, ngpa: int) -> None:
    """nested_ept_invalidate_addr: the loaded root the caller has seen to."""
    for root in vcpu.guest_mmu.prev_roots:
        if _root_matches(root, vcpu.guest_mmu.guest_pgd):
            vcpu.kvm.shadow.kvm_mmu_invalidate_addr(vcpu, ngpa, root)


def _root_matches(root: RootInfo, eptp: int) -> bool:
    """Whether a root shadows the tables of an EPTP, whatever its flags (nested_ept_root_matches)."""
    return root.is_valid and root.pgd & EPTP_ROOT == eptp & EPTP_ROOT


def nested_ept_ad_enabled(vcpu: KvmVcpu) -> bool:
    """Whether the hypervisor enabled accessed and dirty flags in an EPT for the guest that it runs."""
    return vcpu.is_nested_mmu and bool(vcpu.guest_mmu.guest_pgd & EPTP_ACCESSED_DIRTY)


def handle_invept(vcpu: KvmVcpu, eptp: int | None) -> None:
    """INVEPT of the hypervisor: the roots that shadow an EPT, or with None any, are given up.

    The next VM entry gets one by looking for it anew, and with that everything below is synchronized.

    Raises
    ------
    VmEntryFailure
        VM entry would fail with the EPTP.
    KvmError
        The inner guest is running: its INVEPT is an exit to the hypervisor.

    """
    _check_vmx_root_operation(vcpu, "INVEPT")
    if eptp is not None:
        nested_ept(vcpu, eptp)
    mmu = vcpu.guest_mmu
    roots = [root for root in (mmu.root, *mmu.prev_roots) if eptp is None or _root_matches(root, eptp)]
    finish(kvm_mmu_free_roots(vcpu.kvm, mmu, roots))


def handle_invvpid(vcpu: KvmVcpu, vpid: int) -> None:
    """INVVPID of the hypervisor, whatever its type.

    Over EPT nothing but the processor's TLB is concerned, for translations of linear addresses are not KVM's.
    Otherwise roots for inner guests are given up: which VPID they are for, no role says.

    Raises
    ------
    VmEntryFailure
        No VPID, or that of the hypervisor, 0.
    KvmError
        The inner guest is running: its INVVPID is an exit to the hypervisor.

    """
    _check_vmx_root_operation(vcpu, "INVVPID")
    if not vpid or vpid >> 16:
        raise VmEntryFailure(f"INVVPID of VPID {vpid:#x}: they are 1 to 0xffff")
    if not vcpu.kvm.parameters.ept_enabled:
        _free_guest_mode_roots(vcpu)


def _free_guest_mode_roots(vcpu: KvmVcpu) -> None:
    """mmu.c: kvm_mmu_free_guest_mode_roots."""
    mmu, host = vcpu.root_mmu, vcpu.kvm.host
    pages = [(root, root_to_sp(host, root.hpa)) for root in mmu.prev_roots if root.is_valid]
    roots = [root for root, sp in pages if sp is None or sp.role.guest_mode]
    finish(kvm_mmu_free_roots(vcpu.kvm, mmu, roots))


def _check_vmx_root_operation(vcpu: KvmVcpu, instruction: str) -> None:
    if vcpu.guest_mode:
        raise KvmError(f"{instruction} of an inner guest is an exit to its hypervisor")


def _transition_tlb_flush(vcpu: KvmVcpu, vpid: int) -> None:
    """Translations of linear addresses without a VPID end with VM entry and VM exit; so do those of a VPID
    that was not the last, of which KVM keeps no record. Those of guest-physical addresses do not end."""
    vcpu.requests |= KVM_REQ_LOAD_MMU_PGD
    if not vpid:
        vcpu.requests |= KVM_REQ_TLB_FLUSH_GUEST
    elif vpid != vcpu.last_vpid:  # never with VM exit, whose VPID is that of the last VM entry
        vcpu.last_vpid = vpid
        vcpu.requests |= KVM_REQ_TLB_FLUSH_GUEST
