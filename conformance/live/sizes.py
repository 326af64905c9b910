"""How large an entry is: as the smaller of the guest's page and the host's, if the memslot allows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from mmu_model.scenario.layout import MACHINE_SIZE, PAGE
from mmu_model.snapshot import Gfn, Kind, Memslot, MmuKind, Recording, ShadowPage, Snapshot, Spte
from mmu_model.snapshot.spte import HOST_WRITABLE, LARGE, MMU_WRITABLE

from .account import account, at, other_snapshot
from .guest import Memory
from .predicate import Corruption, leaf_gfn, title, with_entry, with_page, with_role
from .reading import Reached, Tree, leaves_below, reading, trees
from .story import leaves

LEVELS = {1 << 12: 1, 1 << 21: 2, 1 << 22: 2, 1 << 30: 3}  # of 4 MiB each half has an entry
LOGGED = 1  # KVM_MEM_LOG_DIRTY_PAGES


def _slot_of(snapshot: Snapshot, page: ShadowPage, gfn: int) -> Memslot | None:
    for slot in snapshot.memslots:
        if slot.as_id == page.role.smm and slot.base_gfn <= gfn < slot.base_gfn + slot.npages:
            return slot
    return None


def _allowed_by_slot(slot: Memslot, gfn: int) -> int:
    """The highest level at which the slot has the frame within one entry, and no count forbids it."""
    for level in (3, 2):
        size = 1 << 9 * (level - 1)
        first, index = gfn & -size, (gfn >> 9 * (level - 1)) - (slot.base_gfn >> 9 * (level - 1))
        inside = slot.base_gfn <= first and first + size <= slot.base_gfn + slot.npages
        if inside and not any(entry[:2] == (level, index) for entry in slot.disallow_lpage):
            return level
    return 1


def _mitigated(snapshot: Snapshot) -> bool:
    """Large pages were split so that they can be fetched from."""
    return any(page.nx_huge_page_disallowed for page in snapshot.pages)


def _constraints(snapshot: Snapshot, tree: Tree, leaf: Reached, memory: Memory) -> list[int]:
    """The levels that slot, host and, if tables are shadowed, the guest's page allow; none where a rule of another
    kind has a say: a table out of sync, dirty logging, the mitigation of nx_huge_pages, the host's zero page,
    and a large entry without W, which no count forbids."""
    gfn = leaf_gfn(leaf.page, leaf.index)
    slot = _slot_of(snapshot, leaf.page, gfn)
    if slot is None or slot.flags & LOGGED or leaf.page.unsync:
        return []
    protected = leaf.spte.level > 1 and not leaf.spte.mmu_writable
    if protected or not leaf.spte.host_writable or _mitigated(snapshot):
        return []
    found = [_allowed_by_slot(slot, gfn), memory.host_level(slot.backing + gfn - slot.base_gfn)]
    if tree.shadows:
        reach = memory.walk(tree.pgd, leaf.address)
        found.append(0 if reach is None else LEVELS[reach.size])
    return found


def _made_large(choose: Callable[[Tree], bool]) -> Corruption:
    """The interpreter's slot, which has less than 2 MiB, is mapped by an entry for 2 MiB."""

    def corrupt(snapshot: Snapshot) -> Snapshot | None:
        if _mitigated(snapshot):
            return None
        for tree in filter(choose, trees(snapshot)):
            for leaf in leaves_below(snapshot, tree):
                if leaf_gfn(leaf.page, leaf.index) < MACHINE_SIZE // PAGE and leaf.spte.level == 1:
                    return _without_last_level(snapshot, leaf.page)
        return None

    return corrupt


def _without_last_level(snapshot: Snapshot, table: ShadowPage) -> Snapshot:
    """Entries that lead to a table map 2 MiB instead."""
    for page in snapshot.pages:
        for index, spte in page.sptes().items():
            if spte.kind is Kind.TABLE and spte.pfn == table.spt:
                large = Spte(spte.raw | LARGE | HOST_WRITABLE | MMU_WRITABLE, spte.level).with_pfn(0)
                snapshot = with_page(snapshot, with_entry(page, index, large))
    return snapshot


@reading("large-pages/guest-pte/at-least-as-large", corrupt=_made_large(lambda tree: tree.shadows))
def no_entry_is_larger_than_the_guests_page(snapshot: Snapshot, memory: Memory) -> Iterator[str]:
    """Where tables are shadowed, what an entry maps lies in one page of the guest's."""
    for tree in trees(snapshot):
        for leaf in leaves_below(snapshot, tree) if tree.shadows else ():
            reach = memory.walk(tree.pgd, leaf.address)
            if leaf.spte.level > 1 and (reach is None or leaf.spte.level > LEVELS[reach.size]):
                yield f"{title(leaf.page)} spt[{leaf.index}] is {leaf.spte}; the guest's page is {reach}"


@reading(
    "large-pages/constraints/lead-in",
    "large-pages/combinations/all-sizes",
    corrupt=_made_large(lambda tree: True),
)
def an_entry_is_as_large_as_all_allow(snapshot: Snapshot, memory: Memory) -> Iterator[str]:
    """An entry is as large as the smallest of the guest's page, where tables are shadowed, the host's page and what the
    memslot allows. (Guests have pages of 4 KiB, 2 MiB and 1 GiB here, the host none of 1 GiB.)"""
    for tree in trees(snapshot):
        for leaf in leaves_below(snapshot, tree):
            allowed = _constraints(snapshot, tree, leaf, memory)
            if allowed and leaf.spte.level != min(allowed):
                yield f"{title(leaf.page)} spt[{leaf.index}] is {leaf.spte}; allowed were {allowed}"


def _small(snapshot: Snapshot) -> Snapshot:
    """The entry for the frame is at level 1."""
    for page, spte in leaves(snapshot, 0x400):
        (index,) = (index for index, other in page.sptes().items() if other is spte or other == spte)
        smaller = with_role(with_entry(page, index, spte), level=1)
        return with_page(snapshot, replace(smaller, gfn=Gfn(0x400 - index)))
    raise AssertionError("not mapped")


@account(
    "large-pages/guest-pte/at-least-as-large",
    scenario="small-on-large",
    mmus=(MmuKind.TDP, MmuKind.DIRECT),
    falsify=other_snapshot("touched", _small),
)
def under_nested_paging_the_guests_page_size_is_nothing(recording: Recording) -> Iterator[str]:
    """Two small pages of the guest lie in a large host page: one entry at level 2 maps both."""
    if [spte.level for _, spte in leaves(at(recording, "touched"), 0x400)] != [2]:
        yield "the large host page is not one entry"
