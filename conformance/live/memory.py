"""Memslots and what depends on them: large pages, MMIO entries and their generations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from mmu_model.snapshot import Gfn, Kind, Memslot, ShadowPage, Snapshot, Spte

from .predicate import has_gptes, leaf_gfn, predicate, title, with_entry, with_page

MMIO_GENERATION_BITS = 19  # MMIO_SPTE_GEN_MASK
LARGE_LEVELS = (2, 3)


def _uncount_one(snapshot: Snapshot) -> Snapshot | None:
    for i, slot in enumerate(snapshot.memslots):
        if slot.disallow_lpage:
            slots = list(snapshot.memslots)
            (level, index, count), *rest = slot.disallow_lpage
            slots[i] = replace(slot, disallow_lpage=((level, index, count + 1), *rest))
            return replace(snapshot, memslots=tuple(slots))
    return None


@predicate(
    "large-pages/disallow_lpage/arrays-per-slot-and-size",
    "large-pages/disallow_lpage/write-protection-increments",
    "large-pages/disallow_lpage/unaligned-ends-inflated",
    corrupt=_uncount_one,
)
def disallow_lpage_counts_tables_and_ragged_ends(snapshot: Snapshot) -> Iterator[str]:
    """A large frame counts the shadowed tables in it, and one for an end of the slot that cuts it."""
    for slot in snapshot.memslots:
        expected = _ragged_ends(slot)
        for page in snapshot.pages:
            inside = slot.base_gfn <= page.gfn < slot.base_gfn + slot.npages
            if has_gptes(page) and not page.role.invalid and inside and slot.as_id == page.role.smm:
                for level in LARGE_LEVELS:
                    expected[level, _index(slot, page.gfn, level)] += 1
        found = Counter({(level, index): count for level, index, count in slot.disallow_lpage})
        for key in sorted(expected.keys() | found.keys()):
            if expected[key] != found[key]:
                yield f"slot {slot.as_id}/{slot.id} has {found[key]} at {key}, not {expected[key]}"


def _ragged_ends(slot: Memslot) -> Counter[tuple[int, int]]:
    counts: Counter[tuple[int, int]] = Counter()
    for level in LARGE_LEVELS:
        size = 1 << 9 * (level - 1)
        if slot.base_gfn % size:
            counts[level, 0] = 1
        if (slot.base_gfn + slot.npages) % size:
            counts[level, _index(slot, slot.base_gfn + slot.npages - 1, level)] = 1
    return counts


def _index(slot: Memslot, gfn: int, level: int) -> int:
    """gfn_to_index."""
    shift = 9 * (level - 1)
    return (gfn >> shift) - (slot.base_gfn >> shift)


def _large_leaves(snapshot: Snapshot) -> Iterator[tuple[ShadowPage, int, Spte]]:
    for page in snapshot.pages:
        for index, spte in page.sptes().items():
            if spte.kind is Kind.LEAF and spte.level > 1:
                yield page, index, spte


def _reach(page: ShadowPage, index: int, spte: Spte) -> range:
    """The gfns that a large leaf maps."""
    size = 1 << 9 * (spte.level - 1)
    first = leaf_gfn(page, index) // size * size
    return range(first, first + size)


def _shrink_slot(snapshot: Snapshot) -> Snapshot | None:
    for page, index, spte in _large_leaves(snapshot):
        last = _reach(page, index, spte)[-1]
        for i, slot in enumerate(snapshot.memslots):
            if slot.base_gfn <= last < slot.base_gfn + slot.npages:
                slots = list(snapshot.memslots)
                slots[i] = replace(slot, npages=last - slot.base_gfn)
                return replace(snapshot, memslots=tuple(slots))
    return None


@predicate("large-pages/one-slot/wholly-contained", corrupt=_shrink_slot)
def large_leaves_lie_in_one_slot(snapshot: Snapshot) -> Iterator[str]:
    """What a large leaf maps lies in one memslot, from its first frame to its last."""
    for page, index, spte in _large_leaves(snapshot):
        reach = _reach(page, index, spte)
        if not any(
            slot.as_id == page.role.smm
            and slot.base_gfn <= reach[0]
            and reach[-1] < slot.base_gfn + slot.npages
            for slot in snapshot.memslots
        ):
            yield f"{title(page)} spt[{index}] maps gfn {reach[0]:#x} to {reach[-1]:#x}, in no one slot"


def _disallow_it(snapshot: Snapshot) -> Snapshot | None:
    for page, index, spte in _large_leaves(snapshot):
        first = _reach(page, index, spte)[0]
        for i, slot in enumerate(snapshot.memslots):
            inside = slot.base_gfn <= first < slot.base_gfn + slot.npages and slot.as_id == page.role.smm
            if inside and spte.writable:
                slots = list(snapshot.memslots)
                entry = (spte.level, _index(slot, first, spte.level), 1)
                slots[i] = replace(slot, disallow_lpage=(*slot.disallow_lpage, entry))
                return replace(snapshot, memslots=tuple(slots))
    return None


@predicate("large-pages/write-protected/no-overlap", corrupt=_disallow_it)
def writable_large_leaves_cover_no_table(snapshot: Snapshot) -> Iterator[str]:
    """Where disallow_lpage is set, no writable large leaf maps."""
    disallowed = {
        (slot.as_id, level, (slot.base_gfn >> 9 * (level - 1)) + index)
        for slot in snapshot.memslots
        for level, index, _ in slot.disallow_lpage
    }
    for page, index, spte in _large_leaves(snapshot):
        where = _reach(page, index, spte)[0] >> 9 * (spte.level - 1)
        if spte.writable and (page.role.smm, spte.level, where) in disallowed:
            yield f"{title(page)} spt[{index}] is {spte}, where disallow_lpage forbids it"


def _misalign(snapshot: Snapshot) -> Snapshot | None:
    for page, index, spte in _large_leaves(snapshot):
        return with_page(snapshot, with_entry(page, index, spte.with_pfn(spte.pfn + 1)))
    return None


@predicate("role.level/entry-sizes", corrupt=_misalign)
def large_leaves_are_aligned(snapshot: Snapshot) -> Iterator[str]:
    """A leaf is at level 1, 2 or 3, and maps 4 KiB, 2 MiB or 1 GiB that begin at a multiple."""
    for page, index, spte in _large_leaves(snapshot):
        if spte.level > max(LARGE_LEVELS) or spte.pfn % (1 << 9 * (spte.level - 1)):
            yield f"{title(page)} spt[{index}] is {spte}"


def _mmio_entries(snapshot: Snapshot) -> Iterator[tuple[ShadowPage, int, Spte]]:
    for page in snapshot.pages:
        for index, spte in page.sptes().items():
            if spte.kind is Kind.MMIO:
                yield page, index, spte


def _future_generation(snapshot: Snapshot) -> Snapshot | None:
    for page, index, spte in _mmio_entries(snapshot):
        return with_page(snapshot, with_entry(page, index, Spte(spte.raw | 1 << 62, spte.level)))
    return None


@predicate(
    "fast-invalidation-of-mmio-sptes/stale-information/cached-in-leaf-sptes",
    "fast-invalidation-of-mmio-sptes/generation/stored-in-spare-bits",
    corrupt=_future_generation,
)
def mmio_entries_remember_a_generation(snapshot: Snapshot) -> Iterator[str]:
    """An MMIO entry is at level 1 and carries the memslots' generation, or an earlier one."""
    for page, index, spte in _mmio_entries(snapshot):
        now = snapshot.memslot_generation[page.role.smm] & (1 << MMIO_GENERATION_BITS) - 1
        if spte.level != 1 or spte.mmio_generation > now:
            yield f"{title(page)} spt[{index}] is {spte}; the generation is {now}"


def _memory_there(snapshot: Snapshot) -> Snapshot | None:
    for page, _, spte in _mmio_entries(snapshot):
        now = snapshot.memslot_generation[page.role.smm] & (1 << MMIO_GENERATION_BITS) - 1
        if spte.mmio_generation == now:
            slot = replace(snapshot.memslots[0], base_gfn=Gfn(spte.mmio_gfn))
            return replace(snapshot, memslots=(*snapshot.memslots, slot))
    return None


@predicate(
    "fast-invalidation-of-mmio-sptes/stale-information/stale-after-memslot-change",
    "fast-invalidation-of-mmio-sptes/check/on-every-find",
    corrupt=_memory_there,
)
def current_mmio_entries_have_no_memory(snapshot: Snapshot) -> Iterator[str]:
    """Where an MMIO entry is of the current generation, no memslot has its frame; older ones may be wrong."""
    for page, index, spte in _mmio_entries(snapshot):
        now = snapshot.memslot_generation[page.role.smm] & (1 << MMIO_GENERATION_BITS) - 1
        for slot in snapshot.memslots:
            inside = slot.base_gfn <= spte.mmio_gfn < slot.base_gfn + slot.npages
            if spte.mmio_generation == now and inside and slot.as_id == page.role.smm:
                yield f"{title(page)} spt[{index}] is {spte}, where slot {slot.id} has memory"
