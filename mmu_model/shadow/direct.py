"""Guest-physical memory mapped by shadow pages: guests without paging, nested paging without the TDP MMU."""

from mmu_model.kvm.errors import KvmBug
from mmu_model.kvm.fast_page_fault import fast_page_fault, page_fault_can_be_fast
from mmu_model.kvm.fault import (
    RET_PF_CONTINUE,
    RET_PF_INVALID,
    RET_PF_RETRY,
    RET_PF_SPURIOUS,
    RET_PF_WRITE_PROTECTED,
    KvmPageFault,
    RetPf,
)
from mmu_model.kvm.faultin import is_page_fault_stale, kvm_faultin_pfn
from mmu_model.kvm.hugepage import disallowed_hugepage_adjust, kvm_mmu_hugepage_adjust
from mmu_model.kvm.page_track import page_fault_handle_page_track
from mmu_model.kvm.role import ACC_ALL
from mmu_model.kvm.shadow_walk import (
    for_each_shadow_entry,
    last_spte_lockless,
    reading_shadow_page_tables,
)
from mmu_model.kvm.task import finish
from mmu_model.kvm.types import PG_LEVEL_2M, Sptep, gfn_round_for_level
from mmu_model.kvm.vcpu import KvmVcpu
from mmu_model.shadow.nx import account_nx_huge_page
from mmu_model.shadow.pages import kvm_mmu_get_child_sp, link_shadow_page
from mmu_model.shadow.recycle import make_mmu_pages_available
from mmu_model.shadow.set_spte import mmu_set_spte, pte_prefetch


def nonpaging_page_fault(vcpu: KvmVcpu, fault: KvmPageFault) -> RetPf:
    """A guest without paging: its addresses are guest-physical; PAE page tables map 2 MiB at the most."""
    fault.max_level = PG_LEVEL_2M
    return direct_page_fault(vcpu, fault)


def direct_page_fault(vcpu: KvmVcpu, fault: KvmPageFault) -> RetPf:
    """A fault at a guest-physical address."""
    if page_fault_handle_page_track(fault):
        return RET_PF_WRITE_PROTECTED
    if page_fault_can_be_fast(vcpu, fault):
        reading = reading_shadow_page_tables(vcpu)
        result = finish(fast_page_fault(vcpu, fault, reading, lambda: last_spte_lockless(vcpu, fault.addr)))
        if result is not RET_PF_INVALID:
            return result
    result = kvm_faultin_pfn(vcpu, fault, ACC_ALL)
    if result is not RET_PF_CONTINUE:
        return result
    with vcpu.kvm.mmu_lock.write:
        make_mmu_pages_available(vcpu.kvm)
        if is_page_fault_stale(vcpu, fault):
            return RET_PF_RETRY
        return direct_map(vcpu, fault)


def direct_map(vcpu: KvmVcpu, fault: KvmPageFault) -> RetPf:
    """Walk down to the level of the page that can be mapped, making direct pages on the way; map it."""
    kvm = vcpu.kvm
    kvm_mmu_hugepage_adjust(kvm, fault)
    sptep: Sptep | None = None
    for level, sptep in for_each_shadow_entry(vcpu, fault.addr):  # the last one is used below
        if fault.nx_huge_page_workaround_enabled:
            disallowed_hugepage_adjust(kvm, fault, kvm.host.read(sptep), level)
        base_gfn = gfn_round_for_level(fault.gfn, level)
        if level == fault.goal_level:
            break
        sp = kvm_mmu_get_child_sp(vcpu, sptep, base_gfn, direct=True, access=ACC_ALL)
        if sp is None:
            continue
        link_shadow_page(kvm, sptep, sp)
        if fault.huge_page_disallowed:
            account_nx_huge_page(kvm, sp, possible=fault.req_level >= level, nonpaging=not fault.is_tdp)
    if sptep is None:
        raise KvmBug(f"no table of KVM translates {fault.addr:#x}")
    result = mmu_set_spte(vcpu, sptep, ACC_ALL, base_gfn, fault.pfn, fault)
    if result is not RET_PF_SPURIOUS:
        pte_prefetch(vcpu, sptep)
    return result
