"""What is done to all leaf sptes of a memslot, or of part of it, by way of the reverse map (mmu.c)."""

from mmu_model.hardware.types import Gfn
from mmu_model.kvm.hugepage import kvm_mmu_max_mapping_level
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.kvm.page import sptep_to_sp
from mmu_model.kvm.rmap import RmapHead, pte_list
from mmu_model.kvm.types import KVM_MAX_HUGEPAGE_LEVEL, PG_LEVEL_4K
from mmu_model.kvm.vm import Kvm
from mmu_model.shadow.sptes import drop_spte, rmap_write_protect


def _heads(slot: KvmMemorySlot, levels: range) -> list[RmapHead]:
    """The lists of sptes of these levels that map frames of the slot."""
    return [head for level in levels for head in slot.rmap[level - 1].values()]


ALL_LEVELS = range(PG_LEVEL_4K, KVM_MAX_HUGEPAGE_LEVEL + 1)


def kvm_mmu_slot_remove_write_access(kvm: Kvm, slot: KvmMemorySlot) -> None:
    """Take W from every spte of the slot; a fault may give it back."""
    for head in _heads(slot, ALL_LEVELS):
        rmap_write_protect(kvm, head, pt_protect=False)


def kvm_mmu_write_protect_gfns(kvm: Kvm, slot: KvmMemorySlot, gfns: list[Gfn]) -> None:
    """Take W from the small sptes of these frames (kvm_mmu_write_protect_pt_masked)."""
    for gfn in gfns:
        rmap_write_protect(kvm, slot.gfn_to_rmap(gfn, PG_LEVEL_4K), pt_protect=False)


def kvm_rmap_zap_collapsible_sptes(kvm: Kvm, slot: KvmMemorySlot) -> None:
    """Drop the sptes of direct pages in whose place there could be a larger one now."""
    levels = range(PG_LEVEL_4K, KVM_MAX_HUGEPAGE_LEVEL)
    flush = False
    for head in _heads(slot, levels):
        for sptep in pte_list(kvm.host, head):
            sp = sptep_to_sp(kvm.host, sptep)
            if not sp.role.direct or not slot.base_gfn <= sp.gfn < slot.end_gfn:
                continue
            if sp.role.level < kvm_mmu_max_mapping_level(kvm, slot, sp.gfn, KVM_MAX_HUGEPAGE_LEVEL):
                drop_spte(kvm, sptep)
                flush = True
    if flush:
        kvm.flush_remote_tlbs()
