"""The way of a fault through KVM (mmu.c: kvm_mmu_page_fault)."""

from mmu_model.hardware.types import PAGE_SHIFT, Gfn
from mmu_model.kvm.errors import KvmBug
from mmu_model.kvm.fault import (
    PFERR_GUEST_PAGE_MASK,
    PFERR_PRESENT_MASK,
    PFERR_RSVD_MASK,
    PFERR_WRITE_MASK,
    KvmPageFault,
    RetPf,
)
from mmu_model.kvm.mmio import check_mmio_spte, get_mmio_spte_gfn, mmio_info_in_cache, vcpu_cache_mmio_info
from mmu_model.kvm.shadow_walk import last_spte
from mmu_model.kvm.vcpu import KvmVcpu


def kvm_mmu_page_fault(vcpu: KvmVcpu, address: int, error_code: int) -> RetPf:
    """Handle a fault at a gva (shadow paging) or gpa: EMULATE, or anything else to go on with the guest."""
    result = RetPf.INVALID
    if error_code & PFERR_RSVD_MASK:
        result = handle_mmio_page_fault(vcpu, address)
        if result is RetPf.EMULATE:
            return result
    if result is RetPf.INVALID:
        vcpu.stat["pf_taken"] += 1
        result = _do_page_fault(vcpu, address, error_code)
        if result is RetPf.INVALID:
            raise KvmBug(f"nobody handled the fault at {address:#x}")
    if result is RetPf.WRITE_PROTECTED:
        result = _write_protect_fault(vcpu, address, error_code)
    vcpu.stat[result.stat] += 1
    return result


def _do_page_fault(vcpu: KvmVcpu, address: int, error_code: int) -> RetPf:
    mmu = vcpu.mmu
    fault = KvmPageFault(
        address,
        error_code,
        prefetch=False,
        is_tdp=mmu.is_tdp,
        nx_huge_pages=vcpu.kvm.parameters.nx_huge_pages,
    )
    if mmu.root_role.direct:
        fault.gfn = Gfn(address >> PAGE_SHIFT)
        fault.slot = vcpu.memslots.find(fault.gfn)
    return mmu.page_fault(vcpu, fault)


def _write_protect_fault(vcpu: KvmVcpu, address: int, error_code: int) -> RetPf:
    """A walk of an unshadowed guest that would write to a table shadowed for a nested one: unshadow it.

    Everything else is emulated (kvm_mmu_write_protect_fault).
    """
    table_write = PFERR_GUEST_PAGE_MASK | PFERR_WRITE_MASK | PFERR_PRESENT_MASK
    if vcpu.mmu.root_role.direct and error_code & table_write == table_write:
        with vcpu.kvm.mmu_lock.write:
            if vcpu.kvm.shadow.unprotect_gfn(vcpu.kvm, address >> PAGE_SHIFT):
                return RetPf.RETRY
    return RetPf.EMULATE


def handle_mmio_page_fault(vcpu: KvmVcpu, address: int) -> RetPf:
    """A reserved bit made the processor fault: an spte remembers, or remembered, that there is no memory."""
    direct = bool(vcpu.mmu.root_role.direct)
    if mmio_info_in_cache(vcpu, address, direct=direct):
        return RetPf.EMULATE
    spte = last_spte(vcpu, address)
    if spte is None or not vcpu.kvm.masks.is_mmio(spte):
        return RetPf.RETRY
    if not check_mmio_spte(vcpu, spte):
        return RetPf.INVALID
    access = spte & vcpu.kvm.masks.mmio_access
    vcpu_cache_mmio_info(vcpu, 0 if direct else address, get_mmio_spte_gfn(spte), access)
    return RetPf.EMULATE
