"""How an spte of the TDP MMU changes, and what follows from a change (tdp_mmu.c).

With mmu_lock held for read others change sptes too: a compare-and-exchange with what the walk has seen. With
mmu_lock held for write nobody does but the processor, and faults that are fixed without the lock.
"""

from typing import Final

from mmu_model.hardware.types import PAGE_SHIFT, Gfn
from mmu_model.kvm.errors import KvmBug
from mmu_model.kvm.page import KvmMmuPage, linear_gfn, spte_to_child_sp
from mmu_model.kvm.spte import is_last_spte, is_shadow_present_pte, spte_to_pfn
from mmu_model.kvm.task import Spin, Steps
from mmu_model.kvm.types import PAGE_OFFSET, PG_LEVEL_1G, PG_LEVEL_2M, PG_LEVEL_4K, SPTE_ENT_PER_PAGE, Sptep
from mmu_model.kvm.vm import Kvm
from mmu_model.tdp.iter import TdpIter

PAGES_STAT: Final = {PG_LEVEL_4K: "pages_4k", PG_LEVEL_2M: "pages_2m", PG_LEVEL_1G: "pages_1g"}
"""Which counter of the VM has the leaf sptes of a level."""


def tdp_mmu_set_spte_atomic(kvm: Kvm, place: TdpIter, new_spte: int) -> Steps[bool]:
    """Change the spte that the walk is at, if it still is what it was; whether it was.

    If it was not, `place.old_spte` is what it is now.

    Raises
    ------
    LockNotHeld
        mmu_lock is not held for read.
    KvmBug
        The spte is frozen: somebody else is in charge of it.

    """
    kvm.mmu_lock.assert_held_read()
    _check_not_frozen(kvm, place)
    yield "compares and exchanges an spte"
    if (place.sptep - PAGE_OFFSET) >> PAGE_SHIFT not in kvm.host.page_private:
        raise KvmBug(f"gfn {place.gfn:#x}: the table was freed while a walk was in it")
    if not kvm.host.compare_exchange(place.sptep, place.old_spte, new_spte):
        place.refresh()
        return False
    removed = handle_changed_spte(kvm, place.gfn, place.old_spte, new_spte, place.level)
    if removed is not None:
        yield from _handle_removed_pt(kvm, removed, shared=True)
    return True


def tdp_mmu_iter_set_spte(kvm: Kvm, place: TdpIter, new_spte: int) -> Steps[None]:
    """Change the spte that the walk is at; raises LockNotHeld if mmu_lock is not held for write."""
    _check_not_frozen(kvm, place)
    place.old_spte = yield from tdp_mmu_set_spte(
        kvm, place.sptep, place.old_spte, new_spte, place.gfn, place.level
    )


def tdp_mmu_set_spte(
    kvm: Kvm, sptep: Sptep, old_spte: int, new_spte: int, gfn: Gfn, level: int
) -> Steps[int]:
    """Change an spte of that level, for that frame; what was there. Raises as :func:`tdp_mmu_iter_set_spte`."""
    kvm.mmu_lock.assert_held_write()
    yield "writes an spte"
    old_spte = kvm_tdp_mmu_write_spte(kvm, sptep, old_spte, new_spte, level)
    removed = handle_changed_spte(kvm, gfn, old_spte, new_spte, level)
    if removed is not None:
        yield from _handle_removed_pt(kvm, removed, shared=False)
    return old_spte


def kvm_tdp_mmu_write_spte(kvm: Kvm, sptep: Sptep, old_spte: int, new_spte: int, level: int) -> int:
    """Store an spte with mmu_lock held for write; what was there (tdp_iter.h).

    A leaf that the processor or a lockless fault may be changing is exchanged, anything else is as it was read.
    """
    is_leaf = is_shadow_present_pte(old_spte) and is_last_spte(old_spte, level)
    if is_leaf and kvm.masks.has_volatile_bits(old_spte):
        return kvm.host.exchange(sptep, new_spte)
    kvm.host.write(sptep, new_spte)
    return old_spte


def _check_not_frozen(kvm: Kvm, place: TdpIter) -> None:
    if place.yielded or place.old_spte == kvm.kernel.frozen_spte:
        raise KvmBug("an spte of the TDP MMU is to be changed that is frozen, or was read before yielding")


def handle_changed_spte(kvm: Kvm, gfn: Gfn, old_spte: int, new_spte: int, level: int) -> KvmMmuPage | None:
    """The bookkeeping: statistics, accessed and dirty frames; a table that nothing points at any more is returned.

    Parameters
    ----------
    kvm, gfn, level :
        The VM, the first frame that the spte spans, and its level.
    old_spte, new_spte :
        What it was and is.

    Raises
    ------
    KvmBug
        A leaf was changed to map another frame without having been cleared in between, or an spte changed
        that led nowhere before and after and is about no MMIO.

    """
    if old_spte == new_spte:
        return None
    was_present, is_present = is_shadow_present_pte(old_spte), is_shadow_present_pte(new_spte)
    if not was_present and not is_present:
        _check_change_of_nonpresent(kvm, old_spte, new_spte)
        return None
    was_leaf = was_present and is_last_spte(old_spte, level)
    is_leaf = is_present and is_last_spte(new_spte, level)
    pfn_changed = was_leaf and spte_to_pfn(old_spte) != spte_to_pfn(new_spte)
    if is_leaf and pfn_changed:
        raise KvmBug(f"gfn {gfn:#x}: a leaf spte of the TDP MMU was replaced by one for another frame")
    if is_leaf != was_leaf:
        kvm.stat[PAGES_STAT[level]] += 1 if is_leaf else -1
    if was_leaf:
        _transfer_to_frame(kvm, old_spte, new_spte if is_present and not pfn_changed else 0)
    elif was_present and (is_leaf or not is_present):
        return spte_to_child_sp(kvm.host, old_spte)
    return None


def _check_change_of_nonpresent(kvm: Kvm, old_spte: int, new_spte: int) -> None:
    mmio = kvm.masks.is_mmio(old_spte) or kvm.masks.is_mmio(new_spte)
    if not mmio and new_spte != kvm.kernel.frozen_spte:
        raise KvmBug(f"an spte of the TDP MMU changed from {old_spte:#x} to {new_spte:#x}, both lead nowhere")


def _transfer_to_frame(kvm: Kvm, old_spte: int, new_spte: int) -> None:
    """What a leaf knew of its frame, and does not any more, the frame has to know."""
    masks, host, pfn = kvm.masks, kvm.host, spte_to_pfn(old_spte)
    if masks.is_dirty(old_spte) and not (new_spte and masks.is_dirty(new_spte)):
        host.dirty.add(pfn)
    if masks.is_accessed(old_spte) and not (new_spte and masks.is_accessed(new_spte)):
        host.accessed.add(pfn)


def _handle_removed_pt(kvm: Kvm, sp: KvmMmuPage, *, shared: bool) -> Steps[None]:
    """Freeze every spte of a table that was unlinked, so that no fault that is still in it makes another.

    Others may run in between at each spte that led somewhere; those that did not are independent of each
    other, so that before the first and after the last of them is all the difference there is.
    """
    yield "freezes a table that was unlinked"
    yield from unlink_sp(kvm, sp)
    host, level, frozen = kvm.host, sp.role.level, kvm.kernel.frozen_spte
    for index in range(SPTE_ENT_PER_PAGE):
        sptep = sp.sptep(index)
        old_spte = host.read(sptep)
        if not is_shadow_present_pte(old_spte) and old_spte != frozen:
            if shared:
                _freeze_nonpresent(kvm, sptep)
            continue
        if shared:
            old_spte = yield from _freeze_shared(kvm, sptep)
        else:
            yield "freezes an spte"
            old_spte = kvm_tdp_mmu_write_spte(kvm, sptep, old_spte, frozen, level)
        gfn = linear_gfn(sp.gfn, index, level)
        removed = handle_changed_spte(kvm, gfn, old_spte, frozen, level)
        if removed is not None:
            yield from _handle_removed_pt(kvm, removed, shared=shared)
    kvm.rcu.call(lambda: sp.free(host))


def _freeze_nonpresent(kvm: Kvm, sptep: Sptep) -> None:
    """Freeze an spte that leads nowhere: nobody can get in between, and there is nothing to keep account of."""
    kvm.host.write(sptep, kvm.kernel.frozen_spte)


def _freeze_shared(kvm: Kvm, sptep: Sptep) -> Steps[int]:
    """Freeze an spte that others may change; whoever has frozen it before will still set it."""
    frozen = kvm.kernel.frozen_spte
    yield "freezes an spte"
    while (old_spte := kvm.host.exchange(sptep, frozen)) == frozen:
        yield Spin("an spte is frozen")
    return old_spte


def unlink_sp(kvm: Kvm, sp: KvmMmuPage) -> Steps[None]:
    """The page is used no longer (tdp_mmu_unlink_sp)."""
    kvm.tdp_mmu_pages -= 1
    if sp.nx_huge_page_disallowed:
        yield from kvm.tdp_mmu_pages_lock.wait()
        with kvm.tdp_mmu_pages_lock:
            sp.nx_huge_page_disallowed = False
            kvm.possible_nx_huge_pages.pop(sp, None)
