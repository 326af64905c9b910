"""How pages hang together: parents, roots and their counts, generations, reverse maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from mmu_model.snapshot import Kind, Snapshot, SpteAt

from .predicate import children, corrupt_page, leaf_gfn, loaded, predicate, title, with_page


@predicate(
    "parent_ptes/reverse-mapping",
    "spt/child-points-back",
    corrupt=corrupt_page(
        lambda page: bool(page.parent_ptes),
        lambda page: replace(page, parent_ptes=(page.parent_ptes or ())[1:]),
    ),
)
def parents_and_children_agree(snapshot: Snapshot) -> Iterator[str]:
    """parent_ptes lists the entries that point at a page: all of them and no others."""
    pointing: dict[int, set[SpteAt]] = {page.id: set() for page in snapshot.pages}
    for page, index, child in children(snapshot):
        if child is not None:
            pointing[child.id].add(SpteAt(page.id, index))
    for page in snapshot.pages:
        if page.parent_ptes is not None and set(page.parent_ptes) != pointing[page.id]:
            yield f"{title(page)} has parents {page.parent_ptes}, pointed at by {sorted(pointing[page.id])}"


@predicate(
    "ptep/points-at-parent-spte",
    "ptep/tdp-only-union",
    "spt/dag",
    corrupt=corrupt_page(lambda page: page.ptep is not None, lambda page: replace(page, ptep=None)),
)
def tdp_pages_are_a_tree(snapshot: Snapshot) -> Iterator[str]:
    """A TDP page is pointed at by one entry, which ptep names; a root by none; others have no ptep."""
    pointing: dict[int, list[SpteAt]] = {page.id: [] for page in snapshot.pages}
    for page, index, child in children(snapshot):
        if child is not None:
            pointing[child.id].append(SpteAt(page.id, index))
    for page in snapshot.pages:
        expected = pointing[page.id] if page.tdp_mmu_page else []
        if ([page.ptep] if page.ptep else []) != expected:
            yield f"{title(page)} has ptep {page.ptep}, pointed at by {expected}"


@predicate(
    "tdp_mmu_page/marks-tdp-pages",
    corrupt=corrupt_page(
        lambda page: page.listed == "active", lambda page: replace(page, tdp_mmu_page=True, ptep=None)
    ),
)
def tdp_pages_are_direct_and_apart(snapshot: Snapshot) -> Iterator[str]:
    """tdp_mmu_page is set where the TDP MMU keeps a page: direct, on none of the shadow MMU's lists."""
    active = set(snapshot.active_mmu_pages)
    for page in snapshot.pages:
        if page.tdp_mmu_page and (page.id in active or not page.role.direct):
            yield f"{title(page)} is marked as the TDP MMU's"
    for page, index, child in children(snapshot):
        if child and child.tdp_mmu_page != page.tdp_mmu_page:
            yield f"{title(page)} spt[{index}] points at {title(child)}"


@predicate(
    "root_count/counts-references",
    "root_count/vcpus-take-references",
    corrupt=corrupt_page(
        lambda page: page.root_count is not None,
        lambda page: replace(page, root_count=(page.root_count or 0) + 1),
    ),
)
def root_count_is_what_vcpus_hold(snapshot: Snapshot) -> Iterator[str]:
    """root_count is how often a page is a current or previous root of a vCPU."""
    held = Counter(loaded(snapshot))
    for page in snapshot.pages:
        if page.root_count is not None and page.root_count != held[page.id]:
            yield f"{title(page)} has root_count {page.root_count}; vCPUs hold it {held[page.id]} times"


@predicate(
    "root_count/tdp_mmu_root_count-is-atomic",
    corrupt=corrupt_page(
        lambda page: bool(page.tdp_mmu_root_count),
        lambda page: replace(page, tdp_mmu_root_count=(page.tdp_mmu_root_count or 0) + 1),
    ),
)
def tdp_root_count_has_one_more(snapshot: Snapshot) -> Iterator[str]:
    """tdp_mmu_root_count is the same for TDP roots, and one more while the root is valid."""
    held = Counter(loaded(snapshot))
    for page in snapshot.pages:
        if page.tdp_mmu_root_count is None:
            continue
        root = page.ptep is None
        expected = held[page.id] + (not page.role.invalid) if root else 0
        if page.tdp_mmu_root_count != expected:
            yield f"{title(page)} has tdp_mmu_root_count {page.tdp_mmu_root_count}, not {expected}"


@predicate(
    "mmu_valid_gen/zero-or-one",
    "mmu_valid_gen/generation-mismatch",
    corrupt=corrupt_page(
        lambda page: page.mmu_valid_gen is not None and not page.role.invalid,
        lambda page: replace(page, mmu_valid_gen=(page.mmu_valid_gen or 0) ^ 1),
    ),
)
def pages_are_of_the_current_generation(snapshot: Snapshot) -> Iterator[str]:
    """Generations are 0 or 1. Between two steps nothing obsolete is left but roots that became invalid."""
    if snapshot.mmu_valid_gen not in (0, 1):
        yield f"the VM's mmu_valid_gen is {snapshot.mmu_valid_gen}"
    for page in snapshot.pages:
        stale = page.mmu_valid_gen not in (None, snapshot.mmu_valid_gen)
        if stale and not page.role.invalid:
            yield f"{title(page)} is of generation {page.mmu_valid_gen}, the VM of {snapshot.mmu_valid_gen}"


def _another_page(snapshot: Snapshot) -> Snapshot | None:
    for page in snapshot.pages:
        for place in page.parent_ptes or ([page.ptep] if page.ptep else []):
            wrong = SpteAt(page.id, place.index)
            if page.ptep:
                return with_page(snapshot, replace(page, ptep=wrong))
            return with_page(snapshot, replace(page, parent_ptes=(wrong, *(page.parent_ptes or ())[1:])))
    return None


@predicate("spt/page-private-points-back", corrupt=_another_page)
def the_page_of_an_entry_is_found_by_its_frame(snapshot: Snapshot) -> Iterator[str]:
    """In KVM parents are addresses of entries. kvm_live takes the page that such an entry belongs to from the private
    member of its frame's struct page; that page does have the entry, and it leads to the child."""
    pages = snapshot.by_id()
    for page in snapshot.pages:
        for place in page.parent_ptes or ([page.ptep] if page.ptep else []):
            spte = pages[place.page].sptes().get(place.index) if place.page in pages else None
            if spte is None or spte.kind is not Kind.TABLE or spte.pfn != page.spt:
                yield f"{title(page)} has a parent {place}, which is {spte}"


def _forget_one(snapshot: Snapshot) -> Snapshot | None:
    for i, slot in enumerate(snapshot.memslots):
        if slot.rmap:
            slots = list(snapshot.memslots)
            head = slot.rmap[0]
            slots[i] = replace(slot, rmap=(replace(head, sptes=head.sptes[1:]), *slot.rmap[1:]))
            return replace(snapshot, memslots=tuple(slots))
    return None


@predicate("reverse-map/all-sptes-of-a-gfn/reached-by-gfn", corrupt=_forget_one)
def reverse_maps_hold_every_leaf(snapshot: Snapshot) -> Iterator[str]:
    """The reverse map of a gfn has every leaf of a shadow page that maps it, at its level, and no other.

    Leaves of TDP pages are in none: so the sentence is true of the shadow MMU only.
    """
    mapped = Counter(
        (slot.as_id, int(head.gfn), head.level, spte)
        for slot in snapshot.memslots
        for head in slot.rmap
        for spte in head.sptes
    )
    leaves = Counter(
        (
            page.role.smm,
            _base(leaf_gfn(page, index), page.role.level),
            page.role.level,
            SpteAt(page.id, index),
        )
        for page in snapshot.pages
        if not page.tdp_mmu_page
        for index, spte in page.sptes().items()
        if spte.kind is Kind.LEAF
    )
    for space, gfn, level, spte in mapped - leaves:
        yield f"the reverse map of gfn {gfn:#x} (space {space}, level {level}) has {spte} that maps another"
    for space, gfn, level, spte in leaves - mapped:
        yield f"{spte} maps gfn {gfn:#x} (space {space}, level {level}), its reverse map does not have it"


def _base(gfn: int, level: int) -> int:
    return gfn >> 9 * (level - 1) << 9 * (level - 1)


def _hide_translation(snapshot: Snapshot) -> Snapshot | None:
    return corrupt_page(
        lambda page: page.role.level <= 2,
        lambda page: replace(page, has_shadowed_translation=not page.has_shadowed_translation),
    )(snapshot)


@predicate("shadowed_translation/not-allocated-when-direct", corrupt=_hide_translation)
def translations_where_they_are_needed(snapshot: Snapshot) -> Iterator[str]:
    """Indirect pages have the array, direct ones have not; from 6.12 on none above level 3 has it."""
    highest = 3 if snapshot.kernel == "6.12" else 5
    for page in snapshot.pages:
        expected = not page.role.direct and page.role.level <= highest
        if page.has_shadowed_translation != expected:
            yield f"{title(page)} has {'an' if page.has_shadowed_translation else 'no'} array"
