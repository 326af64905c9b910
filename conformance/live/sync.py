"""Tables out of sync, write protection, write flooding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from mmu_model.snapshot import Gfn, Kind, ShadowPage, Snapshot, Spte
from mmu_model.snapshot.spte import WRITABLE

from .predicate import (
    corrupt_page,
    entry_of,
    has_gptes,
    leaf_gfn,
    predicate,
    title,
    with_entry,
    with_page,
)


@predicate(
    "unsync/leaf-pages-only",
    corrupt=corrupt_page(lambda page: page.role.level == 2, lambda page: replace(page, unsync=True)),
)
def only_leaf_tables_are_out_of_sync(snapshot: Snapshot) -> Iterator[str]:
    """unsync is set at level 1 only, and only for a page that shadows a table."""
    for page in snapshot.pages:
        if page.unsync and (page.role.level != 1 or not has_gptes(page)):
            yield f"{title(page)} is unsync"


@predicate(
    "unsync_children/counts-unsync-entries",
    corrupt=corrupt_page(
        lambda page: page.unsync_children > 0,
        lambda page: replace(page, unsync_children=page.unsync_children + 1),
    ),
)
def unsync_children_counts_the_bitmap(snapshot: Snapshot) -> Iterator[str]:
    """unsync_children is the number of bits in unsync_child_bitmap."""
    for page in snapshot.pages:
        if page.unsync_children != len(page.unsync_child_bitmap):
            yield f"{title(page)} counts {page.unsync_children}, the bitmap has {page.unsync_child_bitmap}"


def _lose_unsync_page(snapshot: Snapshot) -> Snapshot | None:
    for page in snapshot.pages:
        if page.unsync and page.parent_ptes:
            parent = snapshot.by_id()[page.parent_ptes[0].page]
            return with_page(snapshot, replace(parent, unsync_child_bitmap=(), unsync_children=0))
    return None


@predicate(
    "unsync_child_bitmap/marks-unsync-entries",
    "unsync_child_bitmap/locates-unsync-pages",
    corrupt=_lose_unsync_page,
)
def unsync_pages_are_found_from_above(snapshot: Snapshot) -> Iterator[str]:
    """Every entry on the way from a root to an unsync page has its bit. (A bit may outlast its reason.)"""
    pages = snapshot.by_id()
    todo: list[ShadowPage] = [page for page in snapshot.pages if page.unsync]
    seen = set()
    while todo:
        page = todo.pop()
        for place in page.parent_ptes or ():
            parent = pages.get(place.page)
            if parent is None or place in seen:
                continue
            seen.add(place)
            if place.index not in parent.unsync_child_bitmap:
                yield f"{title(parent)} has no bit {place.index}, below it {title(page)}"
            todo.append(parent)


@predicate(
    "write_flooding_count/leaf-pages-exempt",
    "write_flooding_count/counts-emulations-then-unmaps",
    corrupt=corrupt_page(
        lambda page: page.role.level == 1 and has_gptes(page),
        lambda page: replace(page, write_flooding_count=1),
    ),
)
def flooding_is_counted_above_the_leaves(snapshot: Snapshot) -> Iterator[str]:
    """No leaf page counts; elsewhere the third write zaps the page, so that none above 2 is left in a usable one."""
    for page in snapshot.pages:
        if not page.role.invalid and page.write_flooding_count > (0 if page.role.level == 1 else 2):
            yield f"{title(page)} has write_flooding_count {page.write_flooding_count}"


def _writable_table(snapshot: Snapshot) -> Snapshot | None:
    tables = {page.gfn for page in snapshot.pages if has_gptes(page) and not page.unsync}
    for page in snapshot.pages:
        for index, spte in page.sptes().items():
            if spte.kind is Kind.LEAF and spte.level == 1 and leaf_gfn(page, index) in tables:
                return with_page(snapshot, with_entry(page, index, Spte(spte.raw | WRITABLE, spte.level)))
    return None


@predicate(
    "synchronized-and-unsynchronized-pages/tlb-flush/tables-are-write-protected",
    corrupt=_writable_table,
)
def tables_in_sync_are_write_protected(snapshot: Snapshot) -> Iterator[str]:
    """No entry lets the guest write a table that is shadowed, unless every page of it is unsync."""
    tables = {
        (page.role.smm, page.gfn)
        for page in snapshot.pages
        if has_gptes(page) and not page.unsync and not page.role.invalid
    }
    for page in snapshot.pages:
        for index, spte in page.sptes().items():
            if spte.kind is not Kind.LEAF or not spte.writable:
                continue
            first = leaf_gfn(page, index)
            for gfn in range(first, first + (1 << 9 * (spte.level - 1))):
                if (page.role.smm, Gfn(gfn)) in tables:
                    yield f"{title(page)} spt[{index}] lets gfn {gfn:#x} be written, a table in sync"


def _untracked(snapshot: Snapshot) -> Snapshot | None:
    for i, slot in enumerate(snapshot.memslots):
        if slot.gfn_write_track:
            slots = list(snapshot.memslots)
            slots[i] = replace(slot, gfn_write_track=slot.gfn_write_track[1:])
            return replace(snapshot, memslots=tuple(slots))
    return None


@predicate(
    "synchronized-and-unsynchronized-pages/tlb-flush/tables-are-write-protected",
    corrupt=_untracked,
)
def upper_tables_are_tracked(snapshot: Snapshot) -> Iterator[str]:
    """gfn_write_track counts the shadow pages above level 1 of each table."""
    expected = Counter(
        (page.role.smm, page.gfn)
        for page in snapshot.pages
        if has_gptes(page) and page.role.level > 1 and not page.role.invalid
    )
    tracked = Counter(
        {(slot.as_id, gfn): count for slot in snapshot.memslots for gfn, count in slot.gfn_write_track}
    )
    for key in expected.keys() | tracked.keys():
        if expected[key] != tracked[key]:
            yield f"gfn {key[1]:#x} has {expected[key]} upper shadow pages, is tracked {tracked[key]} times"


def _other_access(snapshot: Snapshot) -> Snapshot | None:
    for page in snapshot.pages:
        for index, spte in page.sptes().items():
            entry = entry_of(page, index)
            small = spte.kind is Kind.LEAF and spte.level == 1 and spte.executable
            if small and entry.shadowed_translation is not None:
                return with_page(snapshot, with_entry(page, index, Spte(spte.raw | 1 << 63, spte.level)))
    return None


@predicate(
    "shadowed_translation/reverse-map-and-access",
    "shadowed_translation/512-entries",
    corrupt=_other_access,
)
def translations_have_the_access_of_the_leaf(snapshot: Snapshot) -> Iterator[str]:
    """The lower bits of an entry are the access that its leaf has; W only while nothing protects the page.

    Execution is taken away from large pages by the mitigation that nx_huge_pages stands for.
    """
    for page in snapshot.pages:
        for index, found in page.sptes().items():
            translation = entry_of(page, index).shadowed_translation
            if found.kind is not Kind.LEAF or translation is None:
                continue
            spte = found.restored
            agrees = bool(translation & 4) == spte.user and (bool(translation & 2) or not spte.writable)
            agrees &= bool(translation & 1) == spte.executable or (spte.level > 1 and not spte.executable)
            if not agrees:
                yield f"{title(page)} spt[{index}] is {spte}, its translation {translation:#x}"
