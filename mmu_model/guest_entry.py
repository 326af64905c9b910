"""How the host's processor is set up to run a guest on the tables that KVM made."""

from mmu_model.hardware.ept import ExtendedPaging
from mmu_model.hardware.nested import SecondDimension
from mmu_model.hardware.npt import NestedPaging
from mmu_model.hardware.processor import LogicalProcessor
from mmu_model.hardware.registers import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PKE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    Registers,
)
from mmu_model.kernels import Kernel
from mmu_model.kvm.spte import SpteMasks, ept_masks, paging_masks
from mmu_model.kvm.types import PT64_ROOT_5LEVEL
from mmu_model.kvm.vcpu import KvmVcpu
from mmu_model.kvm.vm import Parameters, TdpFormat
from mmu_model.kvm.vmx import construct_eptp


def load_processor(vcpu: KvmVcpu) -> LogicalProcessor:
    """A processor that has entered the guest, with the root that KVM has for it."""
    processor = LogicalProcessor(vcpu.kvm.host.memory)
    if vcpu.kvm.parameters.tdp_enabled:
        processor.enter_guest(vcpu.registers, second_dimension(vcpu), pdptes=vcpu.pdptes)
    else:
        processor.enter_guest(shadow_paging_registers(vcpu.registers, vcpu.mmu.root.hpa), None)
    return processor


def second_dimension(vcpu: KvmVcpu) -> SecondDimension:
    """Nested paging, with the root that is loaded."""
    kvm, maxphyaddr = vcpu.kvm, vcpu.kvm.host.memory.maxphyaddr
    if kvm.parameters.ept_enabled:
        log = None if vcpu.guest_mode else vcpu.pml
        return ExtendedPaging(construct_eptp(vcpu), exec_only=True, maxphyaddr=maxphyaddr, log=log)
    la57 = CR4_LA57 if vcpu.mmu.root_role.level == PT64_ROOT_5LEVEL else 0
    efer = EFER_NXE | (EFER_LMA if kvm.host.x86_64 else 0)
    return NestedPaging(vcpu.mmu.root.hpa, cr4=CR4_PAE | la57, efer=efer, maxphyaddr=maxphyaddr)


def spte_masks(kernel: Kernel, parameters: Parameters, maxphyaddr: int) -> SpteMasks:
    """The format of sptes that the host's processor walks for guests."""
    if not parameters.ept_enabled:
        return paging_masks(maxphyaddr)
    has_ad_bits = parameters.tdp_format is TdpFormat.EPT
    return ept_masks(has_ad_bits=has_ad_bits, suppress_ve=kernel.ept_suppresses_ve)


def shadow_paging_registers(guest: Registers, root: int) -> Registers:
    """What the processor runs a guest with that has no nested paging (svm.c: svm_set_cr0, svm_set_cr4).

    Always with paging, PAE at least, and with CR0.WP and EFER.NX; a guest without paging is no reason for
    SMEP, SMAP or protection keys.
    """
    cr4 = guest.cr4 | CR4_PAE
    if not guest.cr0 & CR0_PG:
        cr4 &= ~(CR4_SMEP | CR4_SMAP | CR4_PKE)
    efer = guest.efer | EFER_NXE
    if not efer & EFER_LMA:
        efer &= ~EFER_LME
    return Registers(
        cr0=guest.cr0 | CR0_PE | CR0_PG | CR0_WP,
        cr3=root,
        cr4=cr4,
        efer=efer,
        pkru=guest.pkru,
        pkrs=guest.pkrs,
        ac=guest.ac,
        maxphyaddr=guest.maxphyaddr,
    )
