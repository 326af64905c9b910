"""Taking W, or D, from sptes, so that the next write is noticed (tdp_mmu.c): dirty logging, shadowed tables."""

from collections.abc import Callable, Collection

from mmu_model.hardware.types import Gfn
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.spte import (
    PT_WRITABLE_MASK,
    is_last_spte,
    is_shadow_present_pte,
    spte_to_pfn,
)
from mmu_model.kvm.task import Steps
from mmu_model.kvm.types import PG_LEVEL_4K, Sptep
from mmu_model.kvm.vm import Kvm
from mmu_model.tdp.changed import tdp_mmu_iter_set_spte, tdp_mmu_set_spte_atomic
from mmu_model.tdp.iter import TdpIter, tdp_mmu_iter_cond_resched
from mmu_model.tdp.root import for_each_root_of


def kvm_tdp_mmu_write_protect_gfn(kvm: Kvm, slot: KvmMemorySlot, gfn: Gfn) -> Steps[bool]:
    """A table of the guest in the frame is being shadowed: no fault may give W back by itself.

    mmu_lock is held for write. Whether the TLBs are to be flushed.
    """
    kvm.mmu_lock.assert_held_write()
    protected = False
    for root in [root for root in kvm.tdp_mmu_roots if not root.role.invalid and root.role.smm == slot.as_id]:
        with kvm.rcu.read:
            place = TdpIter(kvm, root, gfn)
            while place.valid and place.gfn <= gfn:
                if _is_leaf(place) and kvm.masks.is_mmu_writable(place.old_spte):
                    without = place.old_spte & ~(PT_WRITABLE_MASK | kvm.masks.mmu_writable)
                    yield from tdp_mmu_iter_set_spte(kvm, place, without)
                    protected = True
                place.next()
    return protected


def kvm_tdp_mmu_wrprot_slot(kvm: Kvm, slot: KvmMemorySlot, min_level: int = PG_LEVEL_4K) -> Steps[bool]:
    """Take W from every leaf of a slot, from `min_level` up; whether there was one. For read, and yielding."""
    return (yield from _clear_in_leafs(kvm, slot, min_level, lambda root: PT_WRITABLE_MASK))


def kvm_tdp_mmu_clear_dirty_slot(kvm: Kvm, slot: KvmMemorySlot) -> Steps[bool]:
    """With page-modification logging: take D from every leaf of a slot; where it does not serve, as above."""
    return (yield from _clear_in_leafs(kvm, slot, PG_LEVEL_4K, lambda root: _dirty_bit(kvm, root)))


def _dirty_bit(kvm: Kvm, root: KvmMmuPage) -> int:
    """What to take from leafs below a root so that the next write is noticed by the processor's log, or by a fault.

    Nested guests run without the log, also in tables that their hypervisor has no part in (6.12:
    tdp_mmu_need_write_protect; 6.1: spte_ad_need_write_protect).
    """
    unlogged = kvm.parameters.pml and root.role.guest_mode
    return PT_WRITABLE_MASK if unlogged or not kvm.masks.dirty else kvm.masks.dirty


def _clear_in_leafs(
    kvm: Kvm, slot: KvmMemorySlot, min_level: int, bit: Callable[[KvmMmuPage], int]
) -> Steps[bool]:
    """Take a bit from the leaf sptes of a slot in all valid roots; whether any had it."""
    kvm.mmu_lock.assert_held_read()
    return (
        yield from for_each_root_of(
            kvm, slot, lambda root: _clear_in_leafs_of_root(kvm, root, slot, min_level, bit(root))
        )
    )


def _clear_in_leafs_of_root(
    kvm: Kvm, root: KvmMmuPage, slot: KvmMemorySlot, min_level: int, bit: int
) -> Steps[bool]:
    changed = False
    with kvm.rcu.read:
        place = TdpIter(kvm, root, slot.base_gfn, min_level)
        while place.valid and place.gfn < slot.end_gfn:
            while _is_leaf(place) and place.old_spte & bit:
                if (yield from tdp_mmu_iter_cond_resched(kvm, place)):
                    break
                if (yield from tdp_mmu_set_spte_atomic(kvm, place, place.old_spte & ~bit)):
                    changed = True
                    break
            place.next()
    return changed


def kvm_tdp_mmu_clear_dirty_pt_masked(
    kvm: Kvm, slot: KvmMemorySlot, gfns: Collection[Gfn], *, wrprot: bool
) -> Steps[None]:
    """The dirty log of these frames was read: take W, or with page-modification logging D, from their sptes.

    mmu_lock is held for write, so that no fault makes sptes; the processor and fast page faults change them.
    """
    kvm.mmu_lock.assert_held_write()
    for root in [root for root in kvm.tdp_mmu_roots if not root.role.invalid and root.role.smm == slot.as_id]:
        mask = PT_WRITABLE_MASK if wrprot else _dirty_bit(kvm, root)
        with kvm.rcu.read:
            for gfn in sorted(gfns):
                place = TdpIter(kvm, root, gfn)
                while place.try_step_down():
                    pass
                if _is_leaf(place) and place.level == PG_LEVEL_4K and place.old_spte & mask:
                    yield "clears a bit of an spte"
                    old_spte = tdp_mmu_clear_spte_bits(kvm, place.sptep, place.old_spte, mask)
                    kvm.host.dirty.add(spte_to_pfn(old_spte))


def tdp_mmu_clear_spte_bits(kvm: Kvm, sptep: Sptep, old_spte: int, mask: int) -> int:
    """Clear bits of a leaf; what it was. Atomically, if others may be setting bits of it (tdp_iter.h)."""
    if kvm.masks.has_volatile_bits(old_spte):
        old_spte = kvm.host.read(sptep)
    kvm.host.write(sptep, old_spte & ~mask)
    return old_spte


def _is_leaf(place: TdpIter) -> bool:
    return is_shadow_present_pte(place.old_spte) and is_last_spte(place.old_spte, place.level)
