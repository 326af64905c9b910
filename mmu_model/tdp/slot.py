"""What is done to all leaf sptes of a memslot, or of part of it, below every root of its address space
(tdp_mmu.c)."""

from collections.abc import Iterator
from typing import NamedTuple

from mmu_model.hardware.types import Gfn
from mmu_model.kvm.hugepage import kvm_mmu_max_mapping_level
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.kvm.page import KvmMmuPage, spte_to_child_sp
from mmu_model.kvm.spte import (
    PT_WRITABLE_MASK,
    is_last_spte,
    is_shadow_present_pte,
    is_writable_pte,
    make_nonleaf_spte,
)
from mmu_model.kvm.types import KVM_MAX_HUGEPAGE_LEVEL, PG_LEVEL_4K, Sptep, pages_per_hpage
from mmu_model.kvm.vm import Kvm
from mmu_model.tdp.changed import handle_changed_spte
from mmu_model.tdp.root import tdp_mmu_alloc_sp
from mmu_model.tdp.split import split_into


class Place(NamedTuple):
    """A present spte, what it holds, and the first frame that it spans."""

    sp: KvmMmuPage
    sptep: Sptep
    gfn: Gfn
    spte: int

    @property
    def level(self) -> int:
        """The level of the table that it is in."""
        return self.sp.role.level

    @property
    def is_leaf(self) -> bool:
        """Whether it maps a page."""
        return is_last_spte(self.spte, self.level)


def _places(kvm: Kvm, sp: KvmMmuPage, start: Gfn, end: Gfn) -> Iterator[Place]:
    """The present sptes below a page that span frames from `start` up to `end`, each before its children.

    What an spte leads to is looked at only when the next place is asked for.
    """
    size = pages_per_hpage(sp.role.level)
    first, last = max((start - sp.gfn) // size, 0), min(-(-(end - sp.gfn) // size), 512)
    for index in range(first, last):
        sptep = sp.sptep(index)
        spte = kvm.host.read(sptep)
        if not is_shadow_present_pte(spte):
            continue
        yield Place(sp, sptep, Gfn(sp.gfn + index * size), spte)
        spte = kvm.host.read(sptep)
        if is_shadow_present_pte(spte) and not is_last_spte(spte, sp.role.level):
            yield from _places(kvm, spte_to_child_sp(kvm.host, spte), start, end)


def _in_slot(kvm: Kvm, slot: KvmMemorySlot, start: Gfn, end: Gfn, *, valid: bool) -> Iterator[Place]:
    for root in tuple(kvm.tdp_mmu_roots):
        if root.role.smm == slot.as_id and not (valid and root.role.invalid):
            yield from _places(kvm, root, start, end)


def _set(kvm: Kvm, place: Place, spte: int) -> None:
    kvm.host.write(place.sptep, spte)
    handle_changed_spte(kvm, place.spte, spte, place.level)


def kvm_tdp_mmu_unmap_gfn_range(kvm: Kvm, slot: KvmMemorySlot, start: Gfn, end: Gfn) -> bool:
    """Clear every leaf that maps a frame from `start` up to `end`, also below roots that are invalid;
    whether TLBs must be flushed. Tables stay."""
    kvm.mmu_lock.assert_held_write()
    leaves = [place for place in _in_slot(kvm, slot, start, end, valid=False) if place.is_leaf]
    for place in leaves:
        _set(kvm, place, kvm.kernel.shadow_nonpresent_value)
    return bool(leaves)


def kvm_tdp_mmu_wrprot_slot(kvm: Kvm, slot: KvmMemorySlot) -> None:
    """Take W from every leaf of the slot; a fault may give it back."""
    kvm.mmu_lock.assert_held_read()
    for place in _in_slot(kvm, slot, slot.base_gfn, Gfn(slot.end_gfn), valid=True):
        if place.is_leaf and is_writable_pte(place.spte):
            _set(kvm, place, place.spte & ~PT_WRITABLE_MASK)


def kvm_tdp_mmu_write_protect_gfns(kvm: Kvm, slot: KvmMemorySlot, gfns: list[Gfn]) -> None:
    """Take W from the small leaves of these frames (kvm_tdp_mmu_clear_dirty_pt_masked, without PML)."""
    kvm.mmu_lock.assert_held_write()
    for gfn in gfns:
        for place in _in_slot(kvm, slot, gfn, Gfn(gfn + 1), valid=False):
            if place.level == PG_LEVEL_4K and is_writable_pte(place.spte):
                _set(kvm, place, place.spte & ~PT_WRITABLE_MASK)


def kvm_tdp_mmu_try_split_huge_pages(kvm: Kvm, slot: KvmMemorySlot) -> None:
    """Replace every large page of the slot by tables of small ones, which map the same in the same way."""
    kvm.mmu_lock.assert_held_read()
    for place in _in_slot(kvm, slot, slot.base_gfn, Gfn(slot.end_gfn), valid=True):
        if place.is_leaf and place.level > PG_LEVEL_4K:
            child = tdp_mmu_alloc_sp(
                kvm, place.sp.role.replace(level=place.level - 1), place.gfn, place.sptep
            )
            split_into(kvm, place.spte, child)
            _set(kvm, place, make_nonleaf_spte(kvm.masks, child.hpa, ad_disabled=not kvm.masks.accessed))
            kvm.tdp_mmu_pages += 1


def kvm_tdp_mmu_zap_collapsible_sptes(kvm: Kvm, slot: KvmMemorySlot) -> None:
    """Clear every spte that leads to a table in whose place there could be a large page now."""
    kvm.mmu_lock.assert_held_read()
    for place in _in_slot(kvm, slot, slot.base_gfn, Gfn(slot.end_gfn), valid=True):
        if place.is_leaf or place.level > KVM_MAX_HUGEPAGE_LEVEL:
            continue
        if not slot.base_gfn <= place.gfn < slot.end_gfn:
            continue
        if kvm_mmu_max_mapping_level(kvm, slot, place.gfn, KVM_MAX_HUGEPAGE_LEVEL) >= place.level:
            _set(kvm, place, kvm.kernel.shadow_nonpresent_value)
            kvm.flush_remote_tlbs()
