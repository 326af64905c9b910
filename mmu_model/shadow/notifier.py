"""The host changes, or asks about, the mapping of the guest's memory: the part of the shadow MMU (mmu.c)."""

from collections.abc import Iterator

from mmu_model.hardware.types import Gfn
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.kvm.process import HostMapping
from mmu_model.kvm.rmap import RmapHead, pte_list
from mmu_model.kvm.spte import is_writable_pte, spte_ad_enabled, spte_to_pfn
from mmu_model.kvm.task import Steps
from mmu_model.kvm.types import KVM_MAX_HUGEPAGE_LEVEL, PG_LEVEL_4K, gfn_round_for_level, pages_per_hpage
from mmu_model.kvm.vm import Kvm
from mmu_model.shadow.sptes import drop_spte, mmu_spte_update, replace_spte, zap_all_rmap_sptes


def kvm_unmap_gfn_range(kvm: Kvm, slot: KvmMemorySlot, start: Gfn, end: Gfn) -> bool:
    """No spte maps these frames any more; whether the TLBs are to be flushed."""
    kvm.mmu_lock.assert_held_write()
    flush = False
    for head in _heads(slot, start, end):
        flush |= zap_all_rmap_sptes(kvm, head)
    return flush


def kvm_set_spte_gfn(kvm: Kvm, slot: KvmMemorySlot, gfn: Gfn, mapping: HostMapping) -> Steps[bool]:
    """The host has another page there now: sptes for the old one are made to map it, or, if it may be written to,
    go; whether there was one (6.1: kvm_set_pte_rmap)."""
    kvm.mmu_lock.assert_held_write()
    found = False
    for head in _heads(slot, gfn, Gfn(gfn + 1)):
        for sptep in pte_list(kvm.host, head):
            found = True
            if mapping.writable:
                drop_spte(kvm, sptep)
            else:
                new_spte = kvm.masks.changed_pte(kvm.host.read(sptep), mapping.pfn)
                yield from replace_spte(kvm, sptep, new_spte)
    return found


def kvm_rmap_age_gfn_range(kvm: Kvm, slot: KvmMemorySlot, start: Gfn, end: Gfn, *, test_only: bool) -> bool:
    """Whether frames were used since they were last made old; unless that is all, make them old."""
    kvm.mmu_lock.assert_held_write()
    masks, host = kvm.masks, kvm.host
    young = [
        sptep
        for head in _heads(slot, start, end)
        for sptep in pte_list(host, head)
        if masks.is_accessed(host.read(sptep))
    ]
    if not test_only:
        for sptep in young:
            spte = host.read(sptep)
            if not spte_ad_enabled(spte) and is_writable_pte(spte):
                host.dirty.add(spte_to_pfn(spte))
            mmu_spte_update(kvm, sptep, masks.mark_for_access_track(spte))
    return bool(young)


def _heads(slot: KvmMemorySlot, start: Gfn, end: Gfn) -> Iterator[RmapHead]:
    """The lists of the sptes that map these frames, by level."""
    for level in range(PG_LEVEL_4K, KVM_MAX_HUGEPAGE_LEVEL + 1):
        for gfn in range(gfn_round_for_level(start, level), end, pages_per_hpage(level)):
            yield slot.gfn_to_rmap(gfn, level)
