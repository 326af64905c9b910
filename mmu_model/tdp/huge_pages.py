"""Large pages become tables and tables large pages, for dirty logging of a whole slot (tdp_mmu.c)."""

from mmu_model.kvm.hugepage import kvm_mmu_max_mapping_level
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.spte import is_large_pte, is_last_spte, is_shadow_present_pte
from mmu_model.kvm.task import Steps
from mmu_model.kvm.types import KVM_MAX_HUGEPAGE_LEVEL, PG_LEVEL_2M
from mmu_model.kvm.vm import Kvm
from mmu_model.tdp.iter import TdpIter, tdp_mmu_iter_cond_resched
from mmu_model.tdp.map import new_child, tdp_mmu_split_huge_page, tdp_mmu_zap_spte_atomic
from mmu_model.tdp.root import for_each_root_of


def kvm_tdp_mmu_try_split_huge_pages(kvm: Kvm, slot: KvmMemorySlot) -> Steps[None]:
    """Replace every large page of the slot by tables of small ones, which map the same in the same way."""
    kvm.mmu_lock.assert_held_read()
    yield from for_each_root_of(kvm, slot, lambda root: _split_below(kvm, root, slot))


def _split_below(kvm: Kvm, root: KvmMmuPage, slot: KvmMemorySlot) -> Steps[None]:
    with kvm.rcu.read:
        place = TdpIter(kvm, root, slot.base_gfn, PG_LEVEL_2M)
        while place.valid and place.gfn < slot.end_gfn:
            while is_shadow_present_pte(place.old_spte) and is_large_pte(place.old_spte):
                if (yield from tdp_mmu_iter_cond_resched(kvm, place)):
                    break
                child = new_child(kvm, place)
                if (yield from tdp_mmu_split_huge_page(kvm, place, child)):
                    break
                child.free(kvm.host)
            place.next()


def kvm_tdp_mmu_zap_collapsible_sptes(kvm: Kvm, slot: KvmMemorySlot) -> Steps[None]:
    """Clear every spte that leads to a table in whose place there could be a large page now."""
    kvm.mmu_lock.assert_held_read()
    yield from for_each_root_of(kvm, slot, lambda root: _zap_collapsible_below(kvm, root, slot))


def _zap_collapsible_below(kvm: Kvm, root: KvmMmuPage, slot: KvmMemorySlot) -> Steps[None]:
    with kvm.rcu.read:
        place = TdpIter(kvm, root, slot.base_gfn, PG_LEVEL_2M)
        while place.valid and place.gfn < slot.end_gfn:
            while _is_collapsible(kvm, slot, place):
                if (yield from tdp_mmu_iter_cond_resched(kvm, place)):
                    break
                if (yield from tdp_mmu_zap_spte_atomic(kvm, place)):
                    break
            place.next()


def _is_collapsible(kvm: Kvm, slot: KvmMemorySlot, place: TdpIter) -> bool:
    if place.level > KVM_MAX_HUGEPAGE_LEVEL or not is_shadow_present_pte(place.old_spte):
        return False
    if is_last_spte(place.old_spte, place.level) or place.gfn < slot.base_gfn:
        return False
    return kvm_mmu_max_mapping_level(kvm, slot, place.gfn, KVM_MAX_HUGEPAGE_LEVEL) >= place.level
