"""The tables that shadow pages stand for, entry by entry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from mmu_model.snapshot import Gfn, Kind, ShadowPage, Snapshot, Spte
from mmu_model.snapshot.spte import USER

from .guest import Memory
from .predicate import (
    Corruption,
    children,
    has_gptes,
    leaf_gfn,
    title,
    with_entry,
    with_page,
    with_role,
)
from .reading import leaves_below, reading, trees

TABLE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Gpte:
    """The guest's entry that an entry of a shadow page stands for; ``skip`` is how far into what it maps."""

    word: int
    skip: int


def gpte_of(page: ShadowPage, index: int, memory: Memory) -> Gpte:
    """FNAME(walk_addr) backwards: of a table of 4-byte entries a page shadows the half or quarter role.quadrant; a
    directory entry of that kind has two entries here, for 2 MiB each."""
    assert memory.format is not None
    entry, skip = index, 0
    if page.role.has_4_byte_gpte:
        entry += page.role.quadrant * 512
        if page.role.level == 2:
            entry, skip = entry // 2, (entry & 1) << 21
    return Gpte(memory.entry(page.gfn << 12, entry), skip)


def _shadowing(snapshot: Snapshot) -> Iterator[ShadowPage]:
    return (page for page in snapshot.pages if has_gptes(page) and not page.unsync and not page.role.invalid)


def _change(choose: Callable[[ShadowPage], bool], change: Callable[[ShadowPage], ShadowPage]) -> Corruption:
    def corrupt(snapshot: Snapshot) -> Snapshot | None:
        for page in _shadowing(snapshot):
            if choose(page) and any(spte.kind is Kind.LEAF for spte in page.sptes().values()):
                return with_page(snapshot, change(page))
        return None

    return corrupt


def _another_table(page: ShadowPage) -> ShadowPage:
    return replace(page, gfn=Gfn(page.gfn + 0x100))  # beyond all tables


def _disagreement(page: ShadowPage, index: int, spte: Spte, child: ShadowPage | None, memory: Memory) -> str:
    """In what an entry contradicts the guest's; empty if it does not."""
    assert memory.format is not None
    gpte = gpte_of(page, index, memory)
    frame = (gpte.word & 0x000F_FFFF_FFFF_F000) + gpte.skip >> 12
    large = memory.is_large(page.role.level, gpte.word)
    if not gpte.word & 1:
        return "it is not present"
    if spte.kind is Kind.LEAF:
        ends = page.role.level == 1 or large
        return "" if ends and leaf_gfn(page, index) == frame else f"it leads to gfn {frame:#x}"
    if child is None or bool(child.role.direct) != large:
        return "it is of the other kind"
    found = child.gfn if large else child.gfn + (gpte.skip >> 12)
    return "" if found == frame else f"it leads to gfn {frame:#x}"


def _compare(pages: Callable[[ShadowPage], bool], snapshot: Snapshot, memory: Memory) -> Iterator[str]:
    below = {(page.id, index): child for page, index, child in children(snapshot)}
    for page in _shadowing(snapshot):
        if not pages(page):
            continue
        for index, spte in page.sptes().items():
            if spte.kind not in (Kind.LEAF, Kind.TABLE):
                continue
            what = _disagreement(page, index, spte, below.get((page.id, index)), memory)
            if what:
                yield f"{title(page)} spt[{index}] is {spte}; of the guest's entry: {what}"


@reading(
    "role.direct/clear-guest-page-table",
    "acronyms/gpte/meaning",
    corrupt=_change(lambda page: True, _another_table),
)
def shadow_pages_stand_for_the_table_in_their_frame(snapshot: Snapshot, memory: Memory) -> Iterator[str]:
    """Whatever is present in a page that is neither direct nor passthrough is present in the guest's table in frame
    gfn; where the guest's entry maps a frame, so does a leaf or a direct page, where it leads to a table, a page for
    that."""
    yield from _compare(lambda page: True, snapshot, memory)


@reading(
    "role.quadrant/4-byte-gptes-8-byte-sptes",
    corrupt=_change(
        lambda page: bool(page.role.has_4_byte_gpte and page.role.level == 1),
        lambda page: with_role(page, quadrant=page.role.quadrant ^ 1),
    ),
)
def pages_of_8_bytes_stand_for_tables_of_4(snapshot: Snapshot, memory: Memory) -> Iterator[str]:
    """Where role.has_4_byte_gpte is 1, word n of a page at level 1 is for entry n of that half of the table which
    role.quadrant names; it is 1 for all pages of a guest whose entries have 4 bytes, and for no other."""
    yield from _compare(lambda page: bool(page.role.has_4_byte_gpte), snapshot, memory)
    for page in _shadowing(snapshot):
        if memory.format is None or bool(page.role.has_4_byte_gpte) != (memory.format.entry == 4):
            yield f"{title(page)} is for entries of the other width"


def _grant_the_user(snapshot: Snapshot) -> Snapshot | None:
    for tree in trees(snapshot):
        for leaf in leaves_below(snapshot, tree):
            if tree.shadows and leaf.page.role.cr0_wp and not leaf.page.unsync and not tree.nested:
                changed = Spte(leaf.spte.raw ^ USER, leaf.spte.level)
                return with_page(snapshot, with_entry(leaf.page, leaf.index, changed))
    return None


@reading("emulating-cr0.wp/host-keeps-wp/guest-wp-1-is-no-problem", corrupt=_grant_the_user)
def with_wp_set_leaves_grant_what_the_guest_grants(snapshot: Snapshot, memory: Memory) -> Iterator[str]:
    """In pages with role.cr0_wp = 1 a leaf has U as all of the guest's entries on the way grant it, and W only where
    they do."""
    for tree in trees(snapshot):
        if not tree.shadows or tree.nested:
            continue
        for leaf in leaves_below(snapshot, tree):
            reach = memory.walk(tree.pgd, leaf.address)
            if leaf.page.unsync or not leaf.page.role.cr0_wp or reach is None:
                continue
            if leaf.spte.user != bool(reach.access & 4) or leaf.spte.writable > bool(reach.access & 2):
                yield f"{title(leaf.page)} spt[{leaf.index}] at {leaf.address:#x} is {leaf.spte}"
