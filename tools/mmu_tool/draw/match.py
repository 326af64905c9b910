"""What became of each page and each entry from one snapshot to the next.

Canonical snapshots name pages and frames anew each time, so pages are told by what stays with one for its life:
its role but for ``invalid``, its gfn and its generation; of several that agree, the older is the older. (A page
freed and made again just like that looks like one that stayed.) Host frames of leaf entries are not compared: in
two canonical snapshots their numbers are two numberings.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from mmu_model.snapshot import Entry, Kind, PageId, ShadowPage, Snapshot, Spte

INVALID = 1 << 11  # role.invalid, the one bit of a role that changes while the page lives
LETTERS = 26


class Change(Enum):
    """What happened to something since the step before; the value is its sign."""

    NONE = ""
    ADDED = "+"
    REMOVED = "−"
    CHANGED = "~"


@dataclass(frozen=True)
class Pair:
    """A page before and after; None where it was not. ``label`` (A, B, ... AA) is the same in all steps."""

    label: str
    before: ShadowPage | None
    after: ShadowPage | None

    @cached_property
    def page(self) -> ShadowPage:
        """As it is or, if it is gone, as it was."""
        page = self.after or self.before
        assert page is not None
        return page


@dataclass(frozen=True)
class Meaning:
    """What an entry says: ``spte`` has no host frame where it leads to one, ``target`` is the label of the page
    that a table entry leads to (None: no page owns that frame), ``gfn`` the first guest frame of a leaf."""

    spte: Spte
    target: str | None = None
    gfn: int | None = None

    @property
    def kind(self) -> Kind:
        """What the entry is."""
        return self.spte.kind


@dataclass(frozen=True)
class Side:
    """One of the two snapshots, and the labels of its pages."""

    snapshot: Snapshot
    labels: Mapping[PageId, str]

    @cached_property
    def by_spt(self) -> Mapping[int, str]:
        """Labels by the frame of the page's table."""
        return {page.spt: self.labels[page.id] for page in self.snapshot.pages}

    @cached_property
    def by_label(self) -> Mapping[str, ShadowPage]:
        """The pages by label."""
        return {self.labels[page.id]: page for page in self.snapshot.pages}

    def meanings(self, page: ShadowPage) -> dict[int, Meaning]:
        """The page's entries by index."""
        return {entry.index: self._meaning(page, entry) for entry in page.entries}

    def _meaning(self, page: ShadowPage, entry: Entry) -> Meaning:
        spte = page.spte(entry)
        if spte.kind is Kind.TABLE:
            return Meaning(spte.with_pfn(0), target=self.by_spt.get(spte.pfn))
        if spte.kind is Kind.LEAF:
            return Meaning(spte.with_pfn(0), gfn=leaf_gfn(page, entry))
        return Meaning(spte)

    def parents(self, page: ShadowPage) -> frozenset[tuple[str, int]]:
        """The entries that the page says lead to it, as label and index (parent_ptes, or ptep of the TDP MMU)."""
        places = page.parent_ptes or ((page.ptep,) if page.ptep else ())
        return frozenset((self.labels.get(place.page, "?"), place.index) for place in places)


@dataclass(frozen=True)
class Step:
    """A snapshot and, unless it is the first one, the one before it."""

    before: Side | None
    after: Side
    pairs: tuple[Pair, ...]


def span(level: int) -> int:
    """Guest frames that one entry of a table of ``level`` maps; no format has more than five levels."""
    return int(512 ** min(max(level - 1, 0), 5))


def leaf_gfn(page: ShadowPage, entry: Entry) -> int:
    """The first guest frame that a leaf entry maps (kvm_mmu_page_get_gfn)."""
    if entry.shadowed_translation is not None:
        return entry.shadowed_translation >> 12
    return page.gfn + entry.index * span(page.role.level)


def steps(snapshots: Sequence[Snapshot]) -> Iterator[Step]:
    """Each snapshot beside the one before it; all must be in canonical form."""
    side: Side | None = None
    given = 0
    for snapshot in snapshots:
        same = _same(side.snapshot, snapshot) if side else {}
        labels: dict[PageId, str] = {}
        for page in sorted(snapshot.pages, key=lambda page: page.id):
            if side and page.id in same:
                labels[page.id] = side.labels[same[page.id]]
            else:
                labels[page.id] = _label(given)
                given += 1
        after = Side(snapshot, labels)
        yield Step(side, after, tuple(_pairs(side, after)))
        side = after


def step(after: Snapshot, before: Snapshot | None = None) -> Step:
    """One snapshot, beside another if that is given; both in canonical form."""
    *_, last = steps([before, after] if before else [after])
    return last


def _pairs(before: Side | None, after: Side) -> Iterator[Pair]:
    old = {before.labels[page.id]: page for page in before.snapshot.pages} if before else {}
    for page in sorted(after.snapshot.pages, key=lambda page: page.id):
        label = after.labels[page.id]
        yield Pair(label, old.pop(label, None), page)
    for label, page in sorted(old.items(), key=lambda each: each[1].id):
        yield Pair(label, page, None)


def _same(before: Snapshot, after: Snapshot) -> dict[PageId, PageId]:
    """The pages that are in both: the later id to the earlier one."""
    old, invalid = _by_identity(before), {page.id for page in before.pages if page.role.invalid}
    same: dict[PageId, PageId] = {}
    for identity, pages in _by_identity(after).items():
        candidates = list(old.get(identity, ()))
        for page in pages:
            if not page.role.invalid:  # an invalid page never becomes valid again: that one is gone
                candidates = [each for each in candidates if each.id not in invalid]
            if candidates:
                same[page.id] = candidates.pop(0).id
    return same


def _by_identity(snapshot: Snapshot) -> dict[tuple[object, ...], list[ShadowPage]]:
    """Pages by what stays with a page for its life, the oldest first."""
    age = {page: -position for position, page in enumerate(snapshot.active_mmu_pages)}
    found: dict[tuple[object, ...], list[ShadowPage]] = defaultdict(list)
    for page in sorted(snapshot.pages, key=lambda page: (age.get(page.id, 0), page.id)):
        identity = (page.role_word & ~INVALID, page.gfn, page.tdp_mmu_page, page.mmu_valid_gen)
        found[identity].append(page)
    return found


def by_label(place: tuple[str, int]) -> tuple[int, str, int]:
    """A key to sort entries by, their pages in the order in which they got their labels."""
    return len(place[0]), *place


def _label(number: int) -> str:
    label = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, LETTERS)
        label = chr(ord("A") + digit) + label
    return label
