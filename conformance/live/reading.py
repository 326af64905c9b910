"""Readings: predicates on a snapshot and the guest's own tables as they were then.

A reading is asked of every snapshot of every recording, as predicates are, and has a corruption of the snapshot
that it must refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from mmu_model.snapshot import (
    Kind,
    LoadedRoot,
    MmuContext,
    MmuKind,
    PageId,
    Pfn,
    ShadowPage,
    Snapshot,
    Spte,
    Word,
)

from .guest import Memory
from .predicate import Claimed, Corruption, entry_of, with_page

Check: TypeAlias = Callable[[Snapshot, Memory], Iterator[str]]


class Reading(Claimed[Check]):
    """Is asked of a snapshot and of what lay in the guest's memory then."""


READINGS: list[Reading] = []


def reading(*statements: str, corrupt: Corruption) -> Callable[[Check], Check]:
    """Registers a check for the statements of these ids."""

    def register(check: Check) -> Check:
        READINGS.append(Reading(statements, check, corrupt))
        return check

    return register


@dataclass(frozen=True, slots=True)
class Tree:
    """What hangs below a loaded root, current or previous: a page, the first address that it translates, and the
    tables that the root was loaded for (``pgd``; 0 where none are shadowed). ``nested`` says that it is of guest_mmu,
    ``current`` that it is no previous root.
    """

    top: ShadowPage
    first: int
    pgd: int
    nested: bool
    current: bool

    @property
    def shadows(self) -> bool:
        """Tables are shadowed here."""
        return not self.top.role.direct


@dataclass(frozen=True, slots=True)
class Reached:
    """A leaf, by one of the addresses that the processor reaches it with."""

    address: int
    page: ShadowPage
    index: int
    spte: Spte


def trees(snapshot: Snapshot) -> Iterator[Tree]:
    """The trees of all roots that are loaded or remembered, and valid."""
    pages = snapshot.by_id()
    for vcpu in snapshot.vcpus:
        for nested, mmu in ((False, vcpu.root_mmu), (True, vcpu.guest_mmu)):
            for first, root, page in _tops(mmu):
                if not pages[page].role.invalid:
                    yield Tree(pages[page], first, root.pgd or 0, nested, root is mmu.root)


def _tops(mmu: MmuContext) -> Iterator[tuple[int, LoadedRoot, PageId]]:
    for root in (mmu.root, *mmu.prev_roots):
        if root.page is not None:
            yield 0, root, root.page
    for gigabyte, page in enumerate(mmu.pae_root):
        if page is not None:
            yield gigabyte << 30, mmu.root, page


def leaves_below(snapshot: Snapshot, tree: Tree) -> Iterator[Reached]:
    """Every leaf that the processor reaches from the top, as often as there are ways to it."""
    tables = {page.spt: page for page in snapshot.pages}
    todo = [(tree.top, tree.first)]
    while todo:
        page, first = todo.pop()
        for index, spte in page.sptes().items():
            address = first + (index << 12 + 9 * (page.role.level - 1))
            if spte.kind is Kind.LEAF:
                yield Reached(address, page, index, spte)
            elif spte.kind is Kind.TABLE:
                todo.append((tables[Pfn(spte.pfn)], address))


def under_nested_paging(snapshot: Snapshot) -> bool:
    """The processor has a second dimension, and KVM uses it."""
    return snapshot.mmu is not MmuKind.SHADOW


def translate_elsewhere(choose: Callable[[Snapshot, Tree], bool]) -> Corruption:
    """The first leaf below a tree that ``choose`` takes stands for the neighbour of its frame."""

    def corrupt(snapshot: Snapshot) -> Snapshot | None:
        for tree in trees(snapshot):
            if not choose(snapshot, tree):
                continue
            for leaf in leaves_below(snapshot, tree):
                entry = entry_of(leaf.page, leaf.index)
                if leaf.page.unsync or entry.shadowed_translation is None:
                    continue
                other = replace(entry, shadowed_translation=Word(entry.shadowed_translation ^ 0x1000))
                entries = tuple(other if each is entry else each for each in leaf.page.entries)
                return with_page(snapshot, replace(leaf.page, entries=entries))
        return None

    return corrupt
