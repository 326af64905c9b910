"""A fault of a guest whose tables are shadowed (paging_tmpl.h: page_fault, fetch)."""

from mmu_model.kvm.errors import KvmBug
from mmu_model.kvm.fault import (
    RET_PF_CONTINUE,
    RET_PF_RETRY,
    RET_PF_SPURIOUS,
    RET_PF_WRITE_PROTECTED,
    KvmPageFault,
    RetPf,
)
from mmu_model.kvm.faultin import is_page_fault_stale, kvm_faultin_pfn
from mmu_model.kvm.guest_memory import GuestMemory
from mmu_model.kvm.guest_walk import GuestWalker, walk_addr
from mmu_model.kvm.hugepage import disallowed_hugepage_adjust, kvm_mmu_hugepage_adjust
from mmu_model.kvm.inject import WALK_FAULTS, kvm_inject_emulated_page_fault
from mmu_model.kvm.page import root_to_sp, sptep_to_sp
from mmu_model.kvm.page_track import page_fault_handle_page_track
from mmu_model.kvm.role import ACC_EXEC_MASK, ACC_USER_MASK, ACC_WRITE_MASK
from mmu_model.kvm.shadow_walk import for_each_shadow_entry
from mmu_model.kvm.types import Sptep, gfn_round_for_level
from mmu_model.kvm.vcpu import KVM_REQ_MMU_FREE_OBSOLETE_ROOTS, KvmVcpu
from mmu_model.shadow.nx import account_nx_huge_page
from mmu_model.shadow.pages import kvm_mmu_get_child_sp, link_shadow_page, validate_direct_spte
from mmu_model.shadow.recycle import make_mmu_pages_available
from mmu_model.shadow.set_spte import mmu_set_spte, pte_prefetch
from mmu_model.shadow.sync import mmu_sync_children
from mmu_model.shadow.track_write import shadow_page_table_clear_flood


def paging_page_fault(vcpu: KvmVcpu, fault: KvmPageFault) -> RetPf:
    """Translate as the guest does; then either the guest gets a fault, or KVM makes the spte."""
    mmu, memory = vcpu.mmu, GuestMemory(vcpu.kvm, vcpu.memslots)
    try:
        walker = walk_addr(memory, mmu.guest_paging, mmu.access_of(fault.error_code), fault.addr)
    except WALK_FAULTS as reflected:
        vcpu.exception = kvm_inject_emulated_page_fault(vcpu, mmu, reflected, from_hardware=True)
        return RET_PF_RETRY
    fault.gfn = walker.gfn
    fault.max_level = walker.level
    fault.slot = vcpu.memslots.find(fault.gfn)
    if page_fault_handle_page_track(fault):
        shadow_page_table_clear_flood(vcpu, fault.addr)
        return RET_PF_WRITE_PROTECTED
    result = kvm_faultin_pfn(vcpu, fault, walker.pte_access)
    if result is not RET_PF_CONTINUE:
        return result
    walker.pte_access = effective_access(vcpu, fault, walker.pte_access)
    with vcpu.kvm.mmu_lock.write:
        make_mmu_pages_available(vcpu.kvm)
        if is_page_fault_stale(vcpu, fault):
            return RET_PF_RETRY
        return fetch(vcpu, fault, memory, walker)


def effective_access(vcpu: KvmVcpu, fault: KvmPageFault, pte_access: int) -> int:
    """ACC_* bits for the spte, which the host's processor will judge with CR0.WP = 1.

    Where a kernel with CR0.WP = 0 writes to a page that its table has read-only, the spte becomes a writable
    one of the kernel, that users cannot reach; with SMEP neither may it be executed then.
    """
    role = vcpu.mmu.cpu_role
    read_only = not pte_access & ACC_WRITE_MASK
    if not (fault.write and read_only and not role.base.cr0_wp and not fault.user and fault.slot):
        return pte_access
    pte_access = (pte_access | ACC_WRITE_MASK) & ~ACC_USER_MASK
    return pte_access & ~ACC_EXEC_MASK if role.ext.has("cr4_smep") else pte_access


def fetch(vcpu: KvmVcpu, fault: KvmPageFault, memory: GuestMemory, gw: GuestWalker) -> RetPf:
    """Shadow each table that the walk of `memory` went through, then map the page, in parts if it must be."""
    kvm = vcpu.kvm
    root = vcpu.mmu.root
    if _gpte_changed(vcpu, memory, gw, gw.max_level):
        return RET_PF_RETRY
    if root_to_sp(kvm.host, root.hpa) is None and vcpu.mmu.pae_root is None:
        vcpu.requests |= KVM_REQ_MMU_FREE_OBSOLETE_ROOTS
        return RET_PF_RETRY

    entries = for_each_shadow_entry(vcpu, fault.addr)
    here: tuple[int, Sptep] | None = None
    for level, sptep in entries:
        sptep_to_sp(kvm.host, sptep).write_flooding_count = 0
        if level == gw.level:
            here = level, sptep
            break
        if not _shadow_table(vcpu, fault, memory, gw, level, sptep):
            return RET_PF_RETRY
    if here is None:
        raise KvmBug(f"no table of KVM translates {fault.addr:#x}")

    kvm_mmu_hugepage_adjust(kvm, fault)
    level, sptep = here
    while True:
        if fault.nx_huge_page_workaround_enabled:
            disallowed_hugepage_adjust(kvm, fault, kvm.host.read(sptep), level)
        base_gfn = gfn_round_for_level(fault.gfn, level)
        if level == fault.goal_level:
            break
        _shadow_linear_part(vcpu, fault, gw.pte_access, level, sptep)
        level, sptep = next(entries)
    result = mmu_set_spte(vcpu, sptep, gw.pte_access, base_gfn, fault.pfn, fault)
    if result is not RET_PF_SPURIOUS:
        pte_prefetch(vcpu, sptep)
    return result


def _shadow_table(
    vcpu: KvmVcpu, fault: KvmPageFault, memory: GuestMemory, gw: GuestWalker, level: int, sptep: Sptep
) -> bool:
    """Make the spte point at the page that shadows the guest's next table; False to try again.

    The guest's entry is read again once the page is protected or unsync, and before it is linked.
    """
    gfn, access = gw.table_gfn[level - 1], gw.pt_access[level - 1]
    sp = kvm_mmu_get_child_sp(vcpu, sptep, gfn, direct=False, access=access)
    if sp is not None and sp.unsync_children:
        mmu_sync_children(vcpu, sp)
    if _gpte_changed(vcpu, memory, gw, level - 1):
        return False
    if sp is not None:
        link_shadow_page(vcpu.kvm, sptep, sp)
    if fault.write and gfn == fault.gfn:
        fault.write_fault_to_shadow_pgtable = True
    return True


def _shadow_linear_part(vcpu: KvmVcpu, fault: KvmPageFault, access: int, level: int, sptep: Sptep) -> None:
    """Make the spte point at a direct page: the guest's page is large, KVM maps parts of it."""
    validate_direct_spte(vcpu.kvm, sptep, access)
    base_gfn = gfn_round_for_level(fault.gfn, level)
    sp = kvm_mmu_get_child_sp(vcpu, sptep, base_gfn, direct=True, access=access)
    if sp is None:
        return
    link_shadow_page(vcpu.kvm, sptep, sp)
    if fault.huge_page_disallowed:
        account_nx_huge_page(vcpu.kvm, sp, possible=fault.req_level >= level)


def _gpte_changed(vcpu: KvmVcpu, memory: GuestMemory, gw: GuestWalker, level: int) -> bool:
    """Whether the guest's entry of that level is another now; so it is if the host took the table meanwhile."""
    size = vcpu.mmu.guest_paging.steps[-1].entry_size
    try:
        return memory.read_atomic(gw.pte_gpa[level], size) != gw.ptes[level]
    except LookupError:
        return True
