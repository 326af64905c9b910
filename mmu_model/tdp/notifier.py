"""The host changes, or asks about, the mapping of the guest's memory (tdp_mmu.c)."""

from collections.abc import Iterator

from mmu_model.hardware.types import Gfn
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.kvm.process import HostMapping
from mmu_model.kvm.spte import (
    is_last_spte,
    is_shadow_present_pte,
    is_writable_pte,
    spte_ad_enabled,
    spte_to_pfn,
)
from mmu_model.kvm.task import Steps
from mmu_model.kvm.types import PG_LEVEL_4K
from mmu_model.kvm.vm import Kvm
from mmu_model.tdp.changed import kvm_tdp_mmu_write_spte, tdp_mmu_iter_set_spte
from mmu_model.tdp.iter import TdpIter
from mmu_model.tdp.protect import tdp_mmu_clear_spte_bits
from mmu_model.tdp.root import for_each_root_of
from mmu_model.tdp.zap import tdp_mmu_zap_leafs


def kvm_tdp_mmu_unmap_gfn_range(kvm: Kvm, slot: KvmMemorySlot, start: Gfn, end: Gfn) -> Steps[bool]:
    """No spte maps these frames any more, in invalid roots neither; whether the TLBs are to be flushed."""
    return (
        yield from for_each_root_of(
            kvm, slot, lambda root: tdp_mmu_zap_leafs(kvm, root, start, end), only_valid=False
        )
    )


def kvm_tdp_mmu_set_spte_gfn(kvm: Kvm, slot: KvmMemorySlot, gfn: Gfn, mapping: HostMapping) -> Steps[bool]:
    """The host has another page there now: small sptes for the old one are made to map it, or, if it may be written
    to, go; whether there was one (6.1: set_spte_gfn)."""
    kvm.mmu_lock.assert_held_write()
    found = False
    with kvm.rcu.read:
        for place in _leafs(kvm, slot, gfn, Gfn(gfn + 1)):
            if place.level != PG_LEVEL_4K:
                continue
            found, unused = True, kvm.kernel.shadow_nonpresent_value
            new_spte = kvm.masks.changed_pte(place.old_spte, mapping.pfn)
            yield from tdp_mmu_iter_set_spte(kvm, place, unused)
            if not mapping.writable:
                place.old_spte = unused
                yield from tdp_mmu_iter_set_spte(kvm, place, new_spte)
    return found


def kvm_tdp_mmu_age_gfn_range(kvm: Kvm, slot: KvmMemorySlot, start: Gfn, end: Gfn) -> Steps[bool]:
    """Whether one of the frames was used since it was last asked for; from now on they count as not used."""
    kvm.mmu_lock.assert_held_write()
    young = False
    with kvm.rcu.read:
        for place in _leafs(kvm, slot, start, end):
            if kvm.masks.is_accessed(place.old_spte):
                yield "makes an spte old"
                _age(kvm, place)
                young = True
    return young


def kvm_tdp_mmu_test_age_gfn(kvm: Kvm, slot: KvmMemorySlot, start: Gfn, end: Gfn) -> bool:
    """Whether one of the frames was used since it was last made old; nothing changes."""
    kvm.mmu_lock.assert_held_write()
    with kvm.rcu.read:
        return any(kvm.masks.is_accessed(place.old_spte) for place in _leafs(kvm, slot, start, end))


def _leafs(kvm: Kvm, slot: KvmMemorySlot, start: Gfn, end: Gfn) -> Iterator[TdpIter]:
    """The walk at each leaf for these frames, in every root."""
    for root in [root for root in kvm.tdp_mmu_roots if root.role.smm == slot.as_id]:
        place = TdpIter(kvm, root, start)
        while place.valid and place.gfn < end:
            if is_shadow_present_pte(place.old_spte) and is_last_spte(place.old_spte, place.level):
                yield place
            place.next()


def _age(kvm: Kvm, place: TdpIter) -> None:
    """Take A from a leaf; without A and D, all that lets the next access by, and W, that says it is dirty
    (age_gfn_range)."""
    masks, old_spte = kvm.masks, place.old_spte
    if spte_ad_enabled(old_spte):
        tdp_mmu_clear_spte_bits(kvm, place.sptep, old_spte, masks.accessed)
        return
    if is_writable_pte(old_spte):
        kvm.host.dirty.add(spte_to_pfn(old_spte))
    kvm_tdp_mmu_write_spte(kvm, place.sptep, old_spte, masks.mark_for_access_track(old_spte), place.level)
