"""A guest that is a hypervisor itself runs a guest of its own, on AMD's processors (svm/nested.c).

The guest's nested page tables translate ngpa to gpa; KVM shadows them by tables that translate ngpa to hpa,
which the host's processor uses as nested page tables.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from mmu_model.hardware.faults import Fault, NestedPageFault, PageFault
from mmu_model.hardware.linear import LinearPaging, Pdptes
from mmu_model.hardware.npt import EXIT_INFO_PAGE
from mmu_model.hardware.registers import CR0_PE, CR0_PG, CR4_PKE, Mode, Registers
from mmu_model.kvm.context import kvm_init_mmu, tdp_level
from mmu_model.kvm.cpu_role import kvm_calc_cpu_role, shadow_npt_root_role
from mmu_model.kvm.errors import KvmError
from mmu_model.kvm.guest_memory import GuestMemory
from mmu_model.kvm.registers import load_registers
from mmu_model.kvm.roots import kvm_mmu_new_pgd
from mmu_model.kvm.vcpu import KVM_REQ_LOAD_MMU_PGD, KVM_REQ_MMU_SYNC, KVM_REQ_TLB_FLUSH_CURRENT, KvmVcpu


def enter_nested(vcpu: KvmVcpu, registers: Registers, nested_cr3: int | None) -> None:
    """VMRUN: from now on the vCPU runs the inner guest (nested.c: enter_svm_guest_mode).

    Parameters
    ----------
    vcpu :
        The vCPU; its registers now are those of the hypervisor.
    registers :
        The inner guest's.
    nested_cr3 :
        The root of the hypervisor's nested page tables; None if it uses no nested paging: then its guest's
        addresses are its own.

    Raises
    ------
    KvmError
        There is no nested paging to offer, or the vCPU is in an inner guest already; so for a hypervisor on
        Intel's processors.
    GeneralProtection
        The inner guest's PDPTEs are malformed.

    """
    if nested_cr3 is not None and not vcpu.kvm.parameters.tdp_enabled:
        raise KvmError("without nested paging on the host there is none for the guest to use")
    with entering_guest_mode(vcpu) as outer:
        if nested_cr3 is None:
            load_cr3(vcpu, registers)
        else:
            kvm_init_shadow_npt_mmu(vcpu, outer, nested_cr3)
            vcpu.registers = registers
            kvm_init_mmu(vcpu)
    _transition_tlb_flush(vcpu)


@contextmanager
def entering_guest_mode(vcpu: KvmVcpu) -> Iterator[Registers]:
    """The hypervisor's registers, while the vCPU becomes one that runs its guest; if that fails, it is not."""
    if vcpu.guest_mode:
        raise KvmError("the vCPU runs an inner guest: leave that first, its hypervisor is not running")
    vcpu.guest_mode, vcpu.l1_registers = True, vcpu.registers
    try:
        yield vcpu.registers
    except BaseException:
        vcpu.guest_mode, vcpu.l1_registers = False, None
        raise


def kvm_init_shadow_npt_mmu(vcpu: KvmVcpu, outer: Registers, nested_cr3: int) -> None:
    """`vcpu.guest_mmu` shadows the hypervisor's nested page tables, whose format its registers select.

    Whatever its CR0.WP is: nested paging does not look at it.
    """
    mmu = vcpu.mmu = vcpu.guest_mmu
    paging = Registers(
        cr0=CR0_PE | CR0_PG,
        cr3=nested_cr3,
        cr4=outer.cr4 & ~CR4_PKE,
        efer=outer.efer,
        maxphyaddr=outer.maxphyaddr,
    )
    mmu.cpu_role = kvm_calc_cpu_role(paging, smm=vcpu.smm, guest_mode=True)
    mmu.root_role = shadow_npt_root_role(mmu.cpu_role, level=tdp_level(vcpu))
    mmu.guest_paging = LinearPaging(paging, _nested_pdptes(vcpu, paging))
    mmu.guest_pgd = nested_cr3
    mmu.page_fault = vcpu.kvm.shadow.paging_page_fault
    mmu.sync_spte = vcpu.kvm.shadow.sync_spte
    mmu.inject_page_fault = nested_svm_inject_npf_exit
    kvm_mmu_new_pgd(vcpu, nested_cr3)


def nested_svm_inject_npf_exit(vcpu: KvmVcpu, fault: Fault, *, from_hardware: bool) -> Fault:
    """#VMEXIT(NPF) for the hypervisor.

    If KVM itself came by a nested page fault, the upper half of EXITINFO1 and the address are those of that
    exit, whatever the walk in software was about.
    """
    assert isinstance(fault, PageFault), f"nested page tables of AMD's format ended in: {fault}"
    stage, address = EXIT_INFO_PAGE, fault.cr2
    if isinstance(vcpu.exit, NestedPageFault):
        stage, address = vcpu.exit.exit_info_1 & ~0xFFFF_FFFF, vcpu.exit.exit_info_2
    return NestedPageFault(stage | fault.error_code, address)


def _nested_pdptes(vcpu: KvmVcpu, paging: Registers) -> Pdptes | None:
    """The four entries at the top of a PAE hypervisor's nested page tables.

    Nothing loads or checks them: KVM reads them from memory (nested.c: nested_svm_get_tdp_pdptr), one that is
    nowhere as 0. Here it does so once for each VMRUN.
    """
    if paging.mode is not Mode.PAE:
        return None
    memory, base = GuestMemory(vcpu.kvm, vcpu.memslots), paging.cr3 & ~0x1F
    if memory.hpa(base) is None:
        return 0, 0, 0, 0
    return memory.read(base), memory.read(base + 8), memory.read(base + 16), memory.read(base + 24)


def leave_nested(vcpu: KvmVcpu) -> None:
    """#VMEXIT to the hypervisor (nested.c: nested_svm_vmexit)."""
    leave_guest_mode(vcpu)
    _transition_tlb_flush(vcpu)


def leave_guest_mode(vcpu: KvmVcpu) -> None:
    """The vCPU runs the hypervisor again, with its registers, or KvmError if it does already."""
    if vcpu.l1_registers is None:
        raise KvmError("the vCPU runs no inner guest")
    outer, vcpu.l1_registers = vcpu.l1_registers, None
    vcpu.guest_mode = False
    vcpu.mmu = vcpu.root_mmu
    load_cr3(vcpu, outer)


def load_cr3(vcpu: KvmVcpu, registers: Registers) -> None:
    """`vcpu.root_mmu` for these registers, with a root that is remembered if there is one."""
    load_registers(vcpu, registers)
    kvm_init_mmu(vcpu)
    kvm_mmu_new_pgd(vcpu, registers.cr3)


def _transition_tlb_flush(vcpu: KvmVcpu) -> None:
    """KVM does not tell the TLBs of hypervisor and guest apart, so each way flushes and synchronizes."""
    vcpu.requests |= KVM_REQ_MMU_SYNC | KVM_REQ_TLB_FLUSH_CURRENT | KVM_REQ_LOAD_MMU_PGD
