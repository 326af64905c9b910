"""A guest that is a hypervisor itself runs a guest of its own over nested paging (svm/nested.c).

The guest's nested page tables translate ngpa to gpa; KVM shadows them by tables that translate ngpa to hpa,
which the host's processor uses as nested page tables.
"""

from mmu_model.hardware.linear import LinearPaging
from mmu_model.hardware.registers import CR0_PE, CR0_PG, CR4_PKE, Registers
from mmu_model.kvm.context import kvm_init_mmu, tdp_level
from mmu_model.kvm.cpu_role import kvm_calc_cpu_role, shadow_npt_root_role
from mmu_model.kvm.errors import KvmError
from mmu_model.kvm.registers import load_registers
from mmu_model.kvm.roots import kvm_mmu_new_pgd, kvm_mmu_reset_context, kvm_mmu_unload
from mmu_model.kvm.vcpu import KvmVcpu, Request


def enter_nested_npt(vcpu: KvmVcpu, nested_cr3: int, registers: Registers) -> None:
    """VMRUN with nested paging: from now on the vCPU runs the inner guest.

    Parameters
    ----------
    vcpu :
        The vCPU; its registers now are those of the hypervisor.
    nested_cr3 :
        The root of the hypervisor's nested page tables.
    registers :
        The inner guest's.

    Raises
    ------
    KvmError
        There is no nested paging to offer.

    """
    if not vcpu.kvm.parameters.tdp_enabled:
        raise KvmError("without nested paging on the host there is none for the guest to use")
    outer, mmu = vcpu.registers, vcpu.guest_mmu
    vcpu.guest_mode = True
    paging = Registers(
        cr0=CR0_PE | CR0_PG,
        cr3=nested_cr3,
        cr4=outer.cr4 & ~CR4_PKE,
        efer=outer.efer,
        maxphyaddr=outer.maxphyaddr,
    )
    mmu.cpu_role = kvm_calc_cpu_role(paging, smm=vcpu.smm, guest_mode=True)
    mmu.root_role = shadow_npt_root_role(mmu.cpu_role, level=tdp_level(vcpu))
    mmu.guest_paging = LinearPaging(paging)
    mmu.guest_pgd = nested_cr3
    mmu.page_fault = vcpu.kvm.shadow.paging_page_fault
    mmu.sync_spte = vcpu.kvm.shadow.sync_spte
    vcpu.mmu = mmu
    vcpu.l1_registers, vcpu.registers = outer, registers
    kvm_mmu_new_pgd(vcpu, nested_cr3)


def enter_nested_shadow(vcpu: KvmVcpu, registers: Registers) -> None:
    """VMRUN without nested paging: the inner guest runs on page tables that the hypervisor made.

    They translate ngva to gpa, for the hypervisor has put its own translation of ngpa to gpa into them. To
    KVM they are tables like any other.
    """
    vcpu.l1_registers, vcpu.guest_mode = vcpu.registers, True
    load_registers(vcpu, registers)
    kvm_mmu_reset_context(vcpu)


def leave_nested(vcpu: KvmVcpu) -> None:
    """#VMEXIT to the hypervisor."""
    if vcpu.l1_registers is None:
        raise KvmError("the vCPU runs no inner guest")
    vcpu.guest_mode = False
    outer, vcpu.l1_registers = vcpu.l1_registers, None
    load_registers(vcpu, outer)
    if vcpu.mmu is vcpu.root_mmu:
        kvm_mmu_unload(vcpu)
    kvm_init_mmu(vcpu)
    vcpu.requests.add(Request.LOAD_MMU_PGD)
