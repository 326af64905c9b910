"""Unsync pages: the guest may write to their tables, and everything above knows of it (mmu.c)."""

from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.kvm.page import KvmMmuPage, sp_has_gptes, spte_to_child_sp, sptep_to_sp
from mmu_model.kvm.page_track import kvm_gfn_is_write_tracked
from mmu_model.kvm.rmap import pte_list
from mmu_model.kvm.spte import is_nonleaf_spte
from mmu_model.kvm.task import Steps
from mmu_model.kvm.types import Sptep, spte_index
from mmu_model.kvm.vm import Kvm

Path = list[tuple[KvmMmuPage, int]]
"""From a page down: page and index of the spte that leads on."""


def mmu_try_to_unsync_pages(
    kvm: Kvm, slot: KvmMemorySlot, gfn: int, *, can_unsync: bool, prefetch: bool
) -> Steps[bool]:
    """Whether a writable spte for the frame may be made: then all pages that shadow a table there are unsync.

    Parameters
    ----------
    kvm, slot, gfn :
        The frame.
    can_unsync :
        False while pages are being synchronized.
    prefetch :
        Nobody wants to write yet: leave pages that are in step as they are.

    mmu_lock may be held for read, so that others are here too: then mmu_unsync_pages_lock is for the marking. The
    pages are marked before the caller makes the spte, since a guest that has seen it may flush, and whoever
    synchronizes for it looks at the marks without a lock.
    """
    kvm.mmu_lock.assert_held()
    if kvm_gfn_is_write_tracked(slot, gfn):
        return False
    in_step = []
    for sp in kvm.valid_pages_at(gfn):
        if not sp_has_gptes(sp):
            continue
        if not can_unsync:
            return False
        if sp.unsync:
            continue
        if prefetch:
            return False
        in_step.append(sp)
    if in_step:
        yield from kvm.mmu_unsync_pages_lock.wait()
        with kvm.mmu_unsync_pages_lock:
            for sp in in_step:
                if not sp.unsync:
                    yield from unsync_page(kvm, sp)
    return True


def unsync_page(kvm: Kvm, sp: KvmMmuPage) -> Steps[None]:
    """The page may differ from the guest's table from now on (kvm_unsync_page)."""
    yield "marks a page unsync"
    kvm.stat["mmu_unsync"] += 1
    sp.unsync = True
    yield from mark_parents_unsync(kvm, sp)


def mark_parents_unsync(kvm: Kvm, sp: KvmMmuPage) -> Steps[None]:
    """Every spte that points at the page leads to something unsync now."""
    for sptep in pte_list(kvm.host, sp.parent_ptes):
        yield from mark_unsync(kvm, sptep)


def mark_unsync(kvm: Kvm, sptep: Sptep) -> Steps[None]:
    """Note in the page of an spte, and in all pages above, that it leads to something unsync."""
    sp = sptep_to_sp(kvm.host, sptep)
    bit = 1 << spte_index(sptep)
    if sp.unsync_child_bitmap & bit:
        return
    yield "notes that an spte leads to an unsync page"
    sp.unsync_child_bitmap |= bit
    children = sp.unsync_children
    yield "counts it"
    sp.unsync_children = children + 1
    if not children:
        yield from mark_parents_unsync(kvm, sp)


def clear_unsync_child_bit(sp: KvmMmuPage, index: int) -> None:
    """`spt[index]` leads to nothing unsync any more."""
    sp.unsync_children -= 1
    sp.unsync_child_bitmap &= ~(1 << index)


def mmu_unsync_walk(kvm: Kvm, sp: KvmMmuPage) -> list[tuple[KvmMmuPage, Path]]:
    """The unsync pages below a page, each once, and the way to it; bits that are out of date are cleared."""
    found: dict[KvmMmuPage, Path] = {}
    if sp.unsync_children:
        _unsync_walk(kvm, sp, [], found)
    return list(found.items())


def _unsync_walk(kvm: Kvm, sp: KvmMmuPage, above: Path, found: dict[KvmMmuPage, Path]) -> int:
    """How many ways there are to unsync pages from here."""
    ways, bits = 0, sp.unsync_child_bitmap
    while bits:
        index = (bits & -bits).bit_length() - 1
        bits &= bits - 1
        below = _unsync_below(kvm, sp, index, [*above, (sp, index)], found)
        if not below:
            clear_unsync_child_bit(sp, index)
        ways += below
    return ways


def _unsync_below(kvm: Kvm, sp: KvmMmuPage, index: int, path: Path, found: dict[KvmMmuPage, Path]) -> int:
    spte = kvm.host.read(sp.sptep(index))
    if not is_nonleaf_spte(spte):
        return 0
    child = spte_to_child_sp(kvm.host, spte)
    if child.unsync_children:
        return _unsync_walk(kvm, child, path, found)
    if child.unsync:
        found.setdefault(child, path)
    return int(child.unsync)


def clear_parents(path: Path) -> None:
    """The page at the end of the path is in step: clear the bits that led to it, up to one that is still
    needed (mmu_pages_clear_parents)."""
    for sp, index in reversed(path):
        clear_unsync_child_bit(sp, index)
        if sp.unsync_children:
            return


def unlink_unsync_page(kvm: Kvm, sp: KvmMmuPage) -> None:
    """The page is in step, or goes."""
    sp.unsync = False
    kvm.stat["mmu_unsync"] -= 1
