"""The way of a fault through KVM (mmu.c: kvm_mmu_page_fault)."""

from typing import Final

from mmu_model.hardware.types import PAGE_SHIFT, Gfn
from mmu_model.kvm.errors import KvmBug
from mmu_model.kvm.fault import (
    PFERR_GUEST_PAGE_MASK,
    PFERR_PRESENT_MASK,
    PFERR_RSVD_MASK,
    PFERR_USER_MASK,
    PFERR_WRITE_MASK,
    RET_PF_EMULATE,
    RET_PF_INVALID,
    RET_PF_RETRY,
    RET_PF_WRITE_PROTECTED,
    KvmPageFault,
    RetPf,
)
from mmu_model.kvm.mmio import check_mmio_spte, get_mmio_spte_gfn, mmio_info_in_cache, vcpu_cache_mmio_info
from mmu_model.kvm.retry import (
    EmulationType,
    unprotect,
    unprotect_gfn_and_retry,
    was_retried,
)
from mmu_model.kvm.shadow_walk import last_spte_lockless, reading_shadow_page_tables
from mmu_model.kvm.task import finish
from mmu_model.kvm.vcpu import KvmVcpu

TABLE_WRITE: Final = PFERR_GUEST_PAGE_MASK | PFERR_WRITE_MASK | PFERR_PRESENT_MASK
"""The error code of a walk through the guest's own tables that would write to one (PFERR_NESTED_GUEST_PAGE)."""


def kvm_mmu_page_fault(
    vcpu: KvmVcpu, address: int, error_code: int, emulation: EmulationType | None = None
) -> RetPf:
    """Handle a fault at a gva (shadow paging) or gpa: EMULATE, or anything else to go on with the guest.

    What the emulator has to know goes to `emulation`.
    """
    emulation = emulation or EmulationType()
    emulation.address, emulation.user = address, bool(error_code & PFERR_USER_MASK)
    result = RET_PF_INVALID
    if error_code & PFERR_RSVD_MASK:
        result = handle_mmio_page_fault(vcpu, address)
        if result is RET_PF_EMULATE:
            return result
    if result is RET_PF_INVALID:
        vcpu.stat["pf_taken"] += 1
        result = _do_page_fault(vcpu, address, error_code, emulation)
        if result is RET_PF_INVALID:
            raise KvmBug(f"nobody handled the fault at {address:#x}")
    if result is RET_PF_WRITE_PROTECTED:
        result = _write_protect_fault(vcpu, error_code, emulation)
    elif result is RET_PF_EMULATE and not vcpu.kvm.kernel.retries_what_was_unprotected:
        known = mmio_info_in_cache(vcpu, address, direct=bool(vcpu.mmu.root_role.direct))
        emulation.allow_retry_pf = not known and not vcpu.guest_mode
    vcpu.stat[result.value] += 1
    return result


def _do_page_fault(vcpu: KvmVcpu, address: int, error_code: int, emulation: EmulationType) -> RetPf:
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
    result = mmu.page_fault(vcpu, fault)
    emulation.write_pf_to_sp = fault.write_fault_to_shadow_pgtable
    return result


def _write_protect_fault(vcpu: KvmVcpu, error_code: int, emulation: EmulationType) -> RetPf:
    """A walk of an unshadowed guest that would write to a table shadowed for a nested one: unshadow it.

    Everything else is emulated, or, if that fails, done by the guest itself; the same instruction only once
    (6.12: kvm_mmu_write_protect_fault; 6.1: kvm_mmu_page_fault, where the last clause is part of the emulation).
    """
    unshadows = vcpu.mmu.root_role.direct and error_code & TABLE_WRITE == TABLE_WRITE
    if not vcpu.kvm.kernel.retries_what_was_unprotected:
        if unshadows:
            unprotect(vcpu, emulation.address >> PAGE_SHIFT)
            return RET_PF_RETRY
    else:
        if was_retried(vcpu, emulation.address):
            return RET_PF_EMULATE
        if unshadows and unprotect_gfn_and_retry(vcpu, emulation, always=False):
            return RET_PF_RETRY
    emulation.allow_retry_pf = not vcpu.guest_mode
    return RET_PF_EMULATE


def handle_mmio_page_fault(vcpu: KvmVcpu, address: int) -> RetPf:
    """A reserved bit made the processor fault: an spte remembers, or remembered, that there is no memory."""
    direct = bool(vcpu.mmu.root_role.direct)
    if mmio_info_in_cache(vcpu, address, direct=direct):
        return RET_PF_EMULATE
    with reading_shadow_page_tables(vcpu):
        found = finish(last_spte_lockless(vcpu, address))
    if found is None or not vcpu.kvm.masks.is_mmio(spte := found[1]):
        return RET_PF_RETRY
    if not check_mmio_spte(vcpu, spte):
        return RET_PF_INVALID
    access = spte & vcpu.kvm.masks.mmio_access
    vcpu_cache_mmio_info(vcpu, 0 if direct else address, get_mmio_spte_gfn(spte), access)
    return RET_PF_EMULATE
