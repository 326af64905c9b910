"""Sptes of the TDP MMU change by compare-and-exchange; what follows from a change (tdp_mmu.c)."""

from mmu_model.kvm.errors import KvmBug
from mmu_model.kvm.page import KvmMmuPage, spte_to_child_sp
from mmu_model.kvm.spte import is_last_spte, is_shadow_present_pte, spte_to_pfn
from mmu_model.kvm.types import Sptep
from mmu_model.kvm.vm import Kvm
from mmu_model.tdp.iter import TdpIter


def tdp_mmu_set_spte_atomic(kvm: Kvm, place: TdpIter, new_spte: int) -> bool:
    """Change the spte that the walk is at, if it still is what it was; whether it was."""
    kvm.mmu_lock.assert_held_read()
    if not kvm.host.compare_exchange(place.sptep, place.old_spte, new_spte):
        place.old_spte = kvm.host.read(place.sptep)
        return False
    handle_changed_spte(kvm, place.old_spte, new_spte, place.level)
    return True


def handle_changed_spte(kvm: Kvm, old_spte: int, new_spte: int, level: int) -> None:
    """The bookkeeping: a table that nothing points at any more goes, with all that is below it.

    Raises
    ------
    KvmBug
        A leaf was changed to map another frame without having been cleared in between.

    """
    was_present, is_present = is_shadow_present_pte(old_spte), is_shadow_present_pte(new_spte)
    if not was_present:
        return
    was_leaf = is_last_spte(old_spte, level)
    is_leaf = is_present and is_last_spte(new_spte, level)
    if was_leaf and is_leaf and spte_to_pfn(old_spte) != spte_to_pfn(new_spte):
        raise KvmBug("a leaf spte of the TDP MMU was replaced by one for another frame")
    if not was_leaf and (is_leaf or not is_present):
        _handle_removed_pt(kvm, spte_to_child_sp(kvm.host, old_spte))


def _handle_removed_pt(kvm: Kvm, sp: KvmMmuPage) -> None:
    """Freeze every spte of a table that was unlinked, so that no fault that is still in it makes another."""
    unlink_sp(kvm, sp)
    frozen = kvm.kernel.frozen_spte
    for index, old_spte in enumerate(kvm.host.words(sp.spt)):
        sptep: Sptep = sp.sptep(index)
        kvm.host.write(sptep, frozen)
        handle_changed_spte(kvm, old_spte, frozen, sp.role.level)
    sp.free(kvm.host)


def unlink_sp(kvm: Kvm, sp: KvmMmuPage) -> None:
    """The page is used no longer (tdp_mmu_unlink_sp)."""
    kvm.tdp_mmu_pages -= 1
    if sp.nx_huge_page_disallowed:
        sp.nx_huge_page_disallowed = False
        kvm.possible_nx_huge_pages.pop(sp, None)
