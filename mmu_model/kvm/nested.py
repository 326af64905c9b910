"""A guest that is a hypervisor itself runs a guest of its own, with or without nested paging (svm/nested.c).

The guest's nested page tables translate ngpa to gpa; KVM shadows them by tables that translate ngpa to hpa,
which the host's processor uses as nested page tables.
"""

from mmu_model.hardware.linear import LinearPaging, Pdptes
from mmu_model.hardware.registers import CR0_PE, CR0_PG, CR4_PKE, Mode, Registers
from mmu_model.kvm.context import kvm_init_mmu, tdp_level
from mmu_model.kvm.cpu_role import kvm_calc_cpu_role, shadow_npt_root_role
from mmu_model.kvm.errors import KvmError
from mmu_model.kvm.guest_memory import GuestMemory
from mmu_model.kvm.registers import load_registers
from mmu_model.kvm.roots import kvm_mmu_new_pgd
from mmu_model.kvm.vcpu import KvmVcpu, Request


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
        There is no nested paging to offer, or it is not NPT.
    GeneralProtection
        The inner guest's PDPTEs are malformed.

    """
    if nested_cr3 is not None and not vcpu.kvm.parameters.tdp_enabled:
        raise KvmError("without nested paging on the host there is none for the guest to use")
    if nested_cr3 is not None and vcpu.kvm.parameters.ept_enabled:
        raise KvmError("the host's processor has EPT: it cannot walk nested page tables of AMD's format")
    outer = vcpu.registers
    vcpu.guest_mode = True
    vcpu.l1_registers = outer
    if nested_cr3 is None:
        _load_cr3(vcpu, registers)
    else:
        kvm_init_shadow_npt_mmu(vcpu, outer, nested_cr3)
        vcpu.registers = registers
    _transition_tlb_flush(vcpu)


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
    kvm_mmu_new_pgd(vcpu, nested_cr3)


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
    if vcpu.l1_registers is None:
        raise KvmError("the vCPU runs no inner guest")
    outer, vcpu.l1_registers = vcpu.l1_registers, None
    vcpu.guest_mode = False
    _load_cr3(vcpu, outer)
    _transition_tlb_flush(vcpu)


def _load_cr3(vcpu: KvmVcpu, registers: Registers) -> None:
    """`vcpu.root_mmu` for these registers, with a root that is remembered if there is one."""
    load_registers(vcpu, registers)
    kvm_init_mmu(vcpu)
    kvm_mmu_new_pgd(vcpu, registers.cr3)


def _transition_tlb_flush(vcpu: KvmVcpu) -> None:
    """KVM does not tell the TLBs of hypervisor and guest apart, so each way flushes and synchronizes."""
    vcpu.requests |= {Request.MMU_SYNC, Request.TLB_FLUSH_CURRENT, Request.LOAD_MMU_PGD}
