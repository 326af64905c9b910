"""Which MMU a vCPU needs for the mode that its guest is in (mmu.c: kvm_init_mmu and what it calls)."""

from mmu_model.hardware.linear import LinearPaging
from mmu_model.hardware.registers import CR0_PG
from mmu_model.kvm.cpu_role import kvm_calc_cpu_role, shadow_root_role, tdp_root_role
from mmu_model.kvm.inject import kvm_inject_page_fault
from mmu_model.kvm.role import PageRole
from mmu_model.kvm.types import PT64_ROOT_4LEVEL, PT64_ROOT_5LEVEL
from mmu_model.kvm.vcpu import KvmVcpu


def kvm_init_mmu(vcpu: KvmVcpu) -> None:
    """Set the MMU of the guest's registers up: `vcpu.root_mmu`, or, over nested tables, `vcpu.nested_mmu`."""
    mmu = vcpu.walk_mmu
    mmu.cpu_role = kvm_calc_cpu_role(vcpu.registers, smm=vcpu.smm, guest_mode=vcpu.guest_mode)
    mmu.guest_pgd = vcpu.registers.cr3
    mmu.guest_paging = LinearPaging(vcpu.registers, vcpu.pdptes)
    mmu.inject_page_fault = kvm_inject_page_fault
    if vcpu.is_nested_mmu:
        return
    if vcpu.kvm.parameters.tdp_enabled:
        _init_kvm_tdp_mmu(vcpu)
    else:
        _init_kvm_shadow_mmu(vcpu)


def kvm_mmu_after_set_cpuid(vcpu: KvmVcpu) -> None:
    """The process chose the processor's features: no page that was made for others may be found again."""
    for mmu in (vcpu.root_mmu, vcpu.guest_mmu):
        mmu.root_role = PageRole.of(invalid=int(vcpu.kvm.kernel.unused_role_is_invalid))
    kvm_init_mmu(vcpu)


def _init_kvm_tdp_mmu(vcpu: KvmVcpu) -> None:
    kvm, mmu = vcpu.kvm, vcpu.root_mmu
    mmu.root_role = tdp_root_role(mmu.cpu_role, level=tdp_level(vcpu), ad_disabled=not kvm.masks.accessed)
    mmu.is_tdp = True
    tdp_mmu = kvm.parameters.tdp_mmu_enabled
    mmu.page_fault = kvm.tdp.kvm_tdp_mmu_page_fault if tdp_mmu else kvm.shadow.direct_page_fault


def _init_kvm_shadow_mmu(vcpu: KvmVcpu) -> None:
    shadow, mmu = vcpu.kvm.shadow, vcpu.root_mmu
    mmu.root_role = shadow_root_role(mmu.cpu_role)
    paging = bool(vcpu.registers.cr0 & CR0_PG)
    mmu.page_fault = shadow.paging_page_fault if paging else shadow.nonpaging_page_fault
    mmu.sync_spte = shadow.sync_spte if paging else None


def tdp_level(vcpu: KvmVcpu) -> int:
    """Levels of nested paging (kvm_mmu_get_tdp_level): 5 only where 4 do not reach the guest's memory.

    With NPT there is no choice: they are those of the host's own paging (svm.c: get_npt_level).
    """
    if vcpu.kvm.parameters.tdp_root_level:
        return vcpu.kvm.parameters.tdp_root_level
    most = vcpu.kvm.parameters.max_tdp_level
    if most == PT64_ROOT_5LEVEL and vcpu.registers.maxphyaddr <= 48:
        return PT64_ROOT_4LEVEL
    return most
