"""The end of a shadow page: first nothing leads to it any more, then it is freed (mmu.c)."""

from mmu_model.kvm.page import KvmMmuPage, sp_has_gptes, spte_to_child_sp
from mmu_model.kvm.requests import flush_remote_tlbs
from mmu_model.kvm.rmap import pte_list
from mmu_model.kvm.spte import is_last_spte, is_shadow_present_pte
from mmu_model.kvm.task import Steps, finish
from mmu_model.kvm.types import PG_LEVEL_4K, Sptep
from mmu_model.kvm.vcpu import KVM_REQ_MMU_FREE_OBSOLETE_ROOTS
from mmu_model.kvm.vm import Kvm
from mmu_model.shadow.accounting import unaccount_shadowed
from mmu_model.shadow.sptes import clear_spte, drop_parent_pte, drop_spte
from mmu_model.shadow.unsync import clear_parents, mmu_unsync_walk, unlink_unsync_page

InvalidList = list[KvmMmuPage]
"""Pages that nothing leads to, waiting for the TLBs to be flushed before they are freed."""


def kvm_mmu_prepare_zap_page(kvm: Kvm, sp: KvmMmuPage, invalid_list: InvalidList) -> int:
    """Detach a page from everything; how many pages went onto `invalid_list`.

    A page that a vCPU still holds as a root stays out of the list: it is freed when the last one lets go.
    """
    kvm.mmu_lock.assert_held_write()
    kvm.stat["mmu_shadow_zapped"] += 1
    zapped = _zap_unsync_children(kvm, sp, invalid_list)
    zapped += _unlink_children(kvm, sp, invalid_list)
    for sptep in pte_list(kvm.host, sp.parent_ptes):
        drop_parent_pte(kvm, sp, sptep)
    if not sp.role.invalid and sp_has_gptes(sp):
        unaccount_shadowed(kvm, sp)
    if sp.unsync:
        unlink_unsync_page(kvm, sp)

    zapped_root = False
    kvm.active_mmu_pages.pop(sp, None)
    if sp.root_count:
        zapped_root = not kvm.is_obsolete(sp)
    else:
        zapped += 1
        invalid_list.append(sp)
        kvm.n_used_mmu_pages -= 1
    if sp.nx_huge_page_disallowed:
        sp.nx_huge_page_disallowed = False
        kvm.possible_nx_huge_pages.pop(sp, None)

    sp.role = sp.role.replace(invalid=1)
    if zapped_root:
        kvm.make_all_cpus_request(KVM_REQ_MMU_FREE_OBSOLETE_ROOTS)
    return zapped


def kvm_mmu_commit_zap_page(kvm: Kvm, invalid_list: InvalidList) -> None:
    """:func:`commit_zap_page` with nobody in between; WouldWaitForEver if a vCPU walks shadow pages."""
    if invalid_list:
        finish(commit_zap_page(kvm, invalid_list))


def commit_zap_page(kvm: Kvm, invalid_list: InvalidList) -> Steps[None]:
    """Flush, which lasts until nobody walks the pages any more, then free."""
    if not invalid_list:
        return
    yield from flush_remote_tlbs(kvm)
    for sp in invalid_list:
        kvm.bucket(sp.gfn).remove(sp)
        sp.free(kvm.host)
    invalid_list.clear()


def remote_flush_or_zap(kvm: Kvm, invalid_list: InvalidList, *, flush: bool) -> None:
    """Free what is to be freed, which flushes; or flush if that is needed."""
    if invalid_list:
        kvm_mmu_commit_zap_page(kvm, invalid_list)
    elif flush:
        kvm.flush_remote_tlbs()


def mmu_page_zap_pte(kvm: Kvm, sp: KvmMmuPage, sptep: Sptep, invalid_list: InvalidList | None) -> int:
    """Clear one spte, whatever it is; how many pages below it were zapped with it.

    A page of nested tables that nothing points at any more is zapped at once, given an `invalid_list`.
    """
    spte = kvm.host.read(sptep)
    if not is_shadow_present_pte(spte):
        if kvm.masks.is_mmio(spte):
            clear_spte(kvm, sptep)
        return 0
    if is_last_spte(spte, sp.role.level):
        drop_spte(kvm, sptep)
        return 0
    child = spte_to_child_sp(kvm.host, spte)
    drop_parent_pte(kvm, child, sptep)
    lonely = not child.root_count and not child.parent_ptes.val
    if kvm.parameters.tdp_enabled and invalid_list is not None and child.role.guest_mode and lonely:
        return kvm_mmu_prepare_zap_page(kvm, child, invalid_list)
    return 0


def _unlink_children(kvm: Kvm, sp: KvmMmuPage, invalid_list: InvalidList) -> int:
    unused = kvm.kernel.shadow_nonpresent_value
    return sum(
        mmu_page_zap_pte(kvm, sp, sp.sptep(index), invalid_list)
        for index, spte in enumerate(kvm.host.words(sp.spt))
        if spte != unused
    )


def _zap_unsync_children(kvm: Kvm, parent: KvmMmuPage, invalid_list: InvalidList) -> int:
    if parent.role.level == PG_LEVEL_4K:
        return 0
    zapped = 0
    while unsync := mmu_unsync_walk(kvm, parent):
        for sp, path in unsync:
            kvm_mmu_prepare_zap_page(kvm, sp, invalid_list)
            clear_parents(path)
            zapped += 1
    return zapped
