"""The guest's control registers, as it or the process loads them, and what that means for the MMU (x86.c).

Under nested paging the guest loads CR3 without KVM, which then has nothing to do.
"""

from collections.abc import Callable
from typing import Final

from mmu_model.hardware.control import CR3_NO_FLUSH, Change, mov_cr3
from mmu_model.hardware.faults import GeneralProtection
from mmu_model.hardware.linear import LinearPaging, Pdptes
from mmu_model.hardware.pdptes import load_pdptes
from mmu_model.hardware.registers import (
    CR0_PG,
    CR0_WP,
    CR3_PCID,
    CR4_LA57,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PKE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LME,
    EFER_NXE,
    Mode,
    Registers,
)
from mmu_model.kvm.context import kvm_init_mmu
from mmu_model.kvm.errors import KvmError
from mmu_model.kvm.nested_memory import pdpte_memory
from mmu_model.kvm.roots import kvm_mmu_free_roots, kvm_mmu_new_pgd, kvm_mmu_reset_context
from mmu_model.kvm.task import finish
from mmu_model.kvm.vcpu import (
    KVM_REQ_LOAD_MMU_PGD,
    KVM_REQ_MMU_SYNC,
    KVM_REQ_TLB_FLUSH_CURRENT,
    KVM_REQ_TLB_FLUSH_GUEST,
    KvmVcpu,
)

KVM_MMU_CR0_ROLE_BITS: Final = CR0_PG | CR0_WP
KVM_MMU_CR4_ROLE_BITS: Final = CR4_PSE | CR4_PAE | CR4_LA57 | CR4_SMEP | CR4_SMAP | CR4_PKE
KVM_MMU_EFER_ROLE_BITS: Final = EFER_LME | EFER_NXE


def kvm_set_cr3(vcpu: KvmVcpu, value: int) -> None:
    """MOV to CR3: other tables, and a TLB without what belonged to the PCID.

    A root that is remembered for them is used again. Whatever root it is, everything it reaches is brought in
    step before the guest goes on, unless the guest asked to keep its TLB.

    Raises
    ------
    GeneralProtection
        The processor would refuse the value, or a PDPTE.

    """
    old = vcpu.registers
    change = mov_cr3(old, value)
    load_registers(vcpu, change.registers)
    vcpu.walk_mmu.guest_pgd = change.registers.cr3
    vcpu.walk_mmu.guest_paging = LinearPaging(change.registers, vcpu.pdptes)
    if change.registers.cr3 != old.cr3 and not vcpu.is_nested_mmu:
        kvm_mmu_new_pgd(vcpu, change.registers.cr3)
    vcpu.requests |= KVM_REQ_LOAD_MMU_PGD
    if not value & CR3_NO_FLUSH:
        kvm_invalidate_pcid(vcpu, change.registers.pcid)


def kvm_invalidate_pcid(vcpu: KvmVcpu, pcid: int) -> None:
    """The guest flushed a PCID: the loaded root is synchronized, those remembered for it go.

    Under nested paging no root is for a PCID, but the processor's TLB may have what the guest flushes.
    """
    if vcpu.kvm.parameters.tdp_enabled:
        vcpu.requests |= KVM_REQ_TLB_FLUSH_GUEST
        return
    registers, mmu = vcpu.registers, vcpu.mmu
    if pcid == registers.pcid:
        vcpu.requests |= KVM_REQ_MMU_SYNC | KVM_REQ_TLB_FLUSH_CURRENT
    if registers.cr4 & CR4_PCIDE:
        stale = [root for root in mmu.prev_roots if root.is_valid and root.pgd & CR3_PCID == pcid]
        finish(kvm_mmu_free_roots(vcpu.kvm, mmu, stale))


def kvm_set_register(vcpu: KvmVcpu, write: Callable[[Registers, int], Change], value: int) -> None:
    """MOV to CR0 or CR4, or WRMSR to EFER: where pages depend on it, the MMU starts again.

    Parameters
    ----------
    vcpu :
        The vCPU.
    write :
        What the processor does: :func:`~mmu_model.hardware.control.mov_cr0` and its like.
    value :
        What is written.

    Raises
    ------
    GeneralProtection
        The processor would refuse the value, or a PDPTE.

    """
    old = vcpu.registers
    change = write(old, value)
    if change.loads_pdptes or change.registers.mode is not old.mode:
        load_registers(vcpu, change.registers)
    vcpu.registers = new = change.registers
    vcpu.requests |= KVM_REQ_LOAD_MMU_PGD
    if change.forgets is not None:
        vcpu.requests |= KVM_REQ_TLB_FLUSH_GUEST
    tdp = vcpu.kvm.parameters.tdp_enabled
    if tdp and new.cr0 ^ old.cr0 == CR0_WP:
        kvm_init_mmu(vcpu)
    elif matters_to_roles(old, new):
        kvm_mmu_reset_context(vcpu)
    else:
        vcpu.walk_mmu.guest_paging = LinearPaging(new, vcpu.pdptes)


def matters_to_roles(old: Registers, new: Registers) -> bool:
    """Whether a register changed in a bit that the role of a page, or of the vCPU, is made of."""
    return bool(
        (old.cr0 ^ new.cr0) & KVM_MMU_CR0_ROLE_BITS
        or (old.cr4 ^ new.cr4) & KVM_MMU_CR4_ROLE_BITS
        or (old.efer ^ new.efer) & KVM_MMU_EFER_ROLE_BITS
    )


def load_registers(vcpu: KvmVcpu, registers: Registers) -> None:
    """Take registers over, PDPTEs included; the MMU is the caller's business, but for PAE roots: with shadow paging
    those are for the PDPTEs of before, and go if these are others (load_pdptrs).

    Raises
    ------
    GeneralProtection
        A PDPTE has reserved bits set, or lies where there is no memory.
    EptViolation, EptMisconfiguration
        The hypervisor's EPT does not let its guest load PDPTEs from there.

    """
    if registers.mode.is_long and not vcpu.kvm.host.x86_64:
        raise KvmError("EFER.LMA is set: a 32-bit host runs no guest in long mode")
    before, vcpu.pdptes = vcpu.pdptes, _load_pdptrs(vcpu, registers)
    vcpu.registers = registers
    if not vcpu.kvm.parameters.tdp_enabled and vcpu.pdptes not in (before, None):
        finish(kvm_mmu_free_roots(vcpu.kvm, vcpu.mmu, [vcpu.mmu.root]))


def _load_pdptrs(vcpu: KvmVcpu, registers: Registers) -> Pdptes | None:
    """None where the processor has no PDPTE registers for the guest: with NPT it reads memory each time."""
    parameters = vcpu.kvm.parameters
    if registers.mode is not Mode.PAE or (parameters.tdp_enabled and not parameters.ept_enabled):
        return None
    try:
        return load_pdptes(pdpte_memory(vcpu), registers)
    except LookupError as error:
        raise GeneralProtection(f"the PDPTEs are nowhere: {error}") from None
