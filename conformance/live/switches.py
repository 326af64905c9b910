"""Which root is loaded when the guest writes CR3, CR0 or CR4, and what that brings into sync."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from mmu_model.scenario.registers import CR0_WP
from mmu_model.snapshot import ShadowPage, Snapshot

from .predicate import leaf_gfn
from .story import leaves, shadows, story


def _root(snapshot: Snapshot) -> ShadowPage:
    """The page that is loaded."""
    page = snapshot.vcpus[0].root_mmu.root.page
    assert page is not None
    return snapshot.by_id()[page]


def _pages(snapshot: Snapshot) -> Counter[tuple[int, int]]:
    """What pages there are, by role and frame."""
    return Counter((page.role_word, page.gfn) for page in snapshot.pages)


@story(
    "reaction-to-events/mov-cr3-roots/looked-up",
    "events/control-register-writes/cr3-above-all",
    scenario="previous-roots",
    before="four",
    after="second-again",
)
def mov_to_cr3_takes_the_root_that_there_is(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """CR3 gets a value (0x46000) that it had before: the root for it is loaded, which was not, and no page is made."""
    if [_root(state).gfn for state in (before, after)] != [0x50, 0x46]:
        yield "not the root for CR3 is loaded"
    if _pages(before) != _pages(after):
        yield f"pages have been made or have gone: {_pages(after) - _pages(before)}"


@story(
    "reaction-to-events/mov-cr3-roots/looked-up",
    "events/control-register-writes/cr3-above-all",
    scenario="previous-roots",
    before="second-again",
    after="five",
)
def mov_to_cr3_makes_a_root_if_there_is_none(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """CR3 gets a value (0x55000) for the first time: a root is made for it; all others stay."""
    if shadows(before, 0x55, 4) or _root(after).gfn != 0x55:
        yield "the root was there before, or is not loaded"
    if _pages(before) - _pages(after):
        yield f"pages have gone: {_pages(before) - _pages(after)}"


@story(
    "reaction-to-events/mov-cr3-sync/newly-reachable",
    scenario="unsync-elsewhere",
    before="still-out-of-sync",
    after="in-sync",
)
def a_root_that_is_loaded_is_synchronized(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """A table (0x45) is unsync while a root is loaded that does not reach it, and MOV to CR3 of that root left it so;
    when CR3 gets the root that reaches it, it is in sync, and what the guest's entry does not map is gone."""
    if [_root(state).gfn for state in (before, after)] != [0x46, 0x40]:
        yield "other roots are loaded"
    if [page.unsync for state in (before, after) for page in shadows(state, 0x45, 1)] != [True, False]:
        yield "the table is not brought into sync"
    if not leaves(before, 0x200) or leaves(after, 0x200):
        yield "the old translation was not there, or is still"


@story(
    "synchronized-and-unsynchronized-pages/reachable-table/reachable-from-cr3",
    scenario="unsync-elsewhere",
    before="before",
    after="out-of-sync",
    refutes=True,
)
def a_table_that_cr3_does_not_reach_goes_out_of_sync(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """The guest writes a table (0x45) of an address space that is not loaded: it is unsync and may be written, as one
    that is reached from CR3."""
    if [page.unsync for state in (before, after) for page in shadows(state, 0x45, 1)] != [False, True]:
        yield "the table does not go out of sync"
    if not any(spte.writable for _, spte in leaves(after, 0x45)):
        yield "the table may not be written"
    if 0x45 in _tables_below(_root(after), after):
        yield "CR3 reaches the table"


def _tables_below(top: ShadowPage, snapshot: Snapshot) -> set[int]:
    """The frames of all tables that are shadowed below a page."""
    by_spt: dict[int, ShadowPage] = {page.spt: page for page in snapshot.pages}
    todo, found = [top], set()
    while todo:
        page = todo.pop()
        found.add(int(page.gfn))
        todo += [by_spt[spte.pfn] for spte in page.sptes().values() if spte.kind.value == "table"]
    return found


@story(
    "reaction-to-events/mov-cr0-cr4-efer-sync/newly-reachable",
    scenario="unsync-cr0-wp",
    before="out-of-sync",
    after="wp-clear",
)
def a_write_to_cr0_synchronizes_what_its_root_reaches(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """A table (0x45) has unsync pages for both values of CR0.WP. The bit is cleared: the page for that value, which
    another root reached before, is in sync; the other one is not, nor are its entries changed."""
    if [page.unsync for page in shadows(before, 0x45, 1)] != [True, True]:
        yield "there are no two unsync pages"
    if {page.role.cr0_wp: page.unsync for page in shadows(after, 0x45, 1)} != {0: False, 1: True}:
        yield "not just the page of the new role is in sync"
    for page in shadows(after, 0x45, 1):
        stale = 0x200 in {leaf_gfn(page, index) for index in page.sptes()}
        if stale != bool(page.role.cr0_wp):
            yield f"the page with cr0_wp={page.role.cr0_wp} has {(stale and 'the') or 'no'} old translation"


@story(
    "reaction-to-events/mov-cr0-cr4-efer-roots/looked-up",
    "events/control-register-writes/cr3-above-all",
    "emulating-cr0.wp/roles/missed-by-lookup",
    scenario="cr0-wp-clear",
    before="wp-set",
    after="wp-clear-again",
)
def the_pages_of_a_role_are_found_again(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """CR0.WP is cleared again: the root of that role is loaded, which there was, and no page is made."""
    if [_root(state).role.cr0_wp for state in (before, after)] != [1, 0]:
        yield "not the roots for CR0.WP are loaded"
    if [bool(state.vcpus[0].cr0 & CR0_WP) for state in (before, after)] != [True, False]:
        yield "CR0.WP does not change"
    if _pages(before) != _pages(after):
        yield f"pages have been made or have gone: {_pages(after) - _pages(before)}"


@story(
    "emulating-cr0.wp/roles/missed-by-lookup",
    "reaction-to-events/mov-cr0-cr4-efer-roots/looked-up",
    scenario="cr0-wp-clear",
    before="written-again",
    after="wp-set",
)
def the_pages_of_the_other_role_are_not_taken(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """CR0.WP is set: for each table that is used there is a second page, of the other role; the first ones stay."""
    made = _pages(after) - _pages(before)
    if _pages(before) - _pages(after):
        yield "pages have gone"
    if {gfn for _, gfn in made} != {int(page.gfn) for page in before.pages}:
        yield "not each table has a page of its own"
    if {page.role.cr0_wp for page in after.pages if (page.role_word, page.gfn) in made} != {1}:
        yield "the pages made are of another role"
