"""What became of pages and entries between two snapshots."""

from dataclasses import replace

from mmu_model.snapshot import PageId, Snapshot
from mmu_tool.draw.match import Pair, Step, step, steps
from tests.mmu_tool.draw.states import moment, recorded, with_invalid_root


def gone(found: Step) -> list[Pair]:
    return [pair for pair in found.pairs if pair.after is None]


def new(found: Step) -> list[Pair]:
    return [pair for pair in found.pairs if pair.before is None]


def renamed(snapshot: Snapshot) -> Snapshot:
    """The same state with other page ids, in the opposite order."""
    ids = {page.id: PageId(500 - page.id) for page in snapshot.pages}
    pages = [
        replace(
            page,
            id=ids[page.id],
            parent_ptes=tuple(replace(at, page=ids[at.page]) for at in page.parent_ptes or ()),
        )
        for page in snapshot.pages
    ]
    return replace(
        snapshot, pages=tuple(pages), active_mmu_pages=tuple(ids[page] for page in snapshot.active_mmu_pages)
    )


def test_names_of_pages_do_not_matter() -> None:
    state = moment("unsync", "in-sync")

    found = step(renamed(state), state)

    assert not gone(found) and not new(found)
    for pair in found.pairs:
        assert found.before and pair.before and pair.after
        assert (pair.before.gfn, pair.before.role) == (pair.after.gfn, pair.after.role)
        assert found.before.meanings(pair.before) == found.after.meanings(pair.after)
        assert found.before.parents(pair.before) == found.after.parents(pair.after)


def test_a_page_keeps_its_label_through_all_steps() -> None:
    labels: dict[str, tuple[int, int]] = {}
    for each in steps(recorded("previous-roots").snapshots):
        for pair in each.pairs:
            identity = pair.page.gfn, pair.page.role_word
            assert labels.setdefault(pair.label, identity) == identity

    assert len(labels) == 26  # five address spaces, and the table that they share


def test_recycled_pages_are_gone_and_others_are_new() -> None:
    before, after = moment("recycling", "nearly-full"), moment("recycling", "recycled")
    found = step(after, before)

    assert len(before.pages) - len(gone(found)) + len(new(found)) == len(after.pages)
    assert {pair.page.role.quadrant for pair in gone(found)} != {
        pair.page.role.quadrant for pair in new(found)
    }


def test_a_page_made_invalid_is_the_same_page() -> None:
    state = moment("four-level", "written")

    found = step(with_invalid_root(state), state)

    assert not gone(found) and not new(found)


def test_an_invalid_root_does_not_come_back_to_life() -> None:
    """The TDP MMU has an invalid root while it is zapped, then another one of the same role."""
    before, after = (
        moment("delete-slot", "obsolete", "6.1", "tdp"),
        moment("delete-slot", "generation-1", "6.1", "tdp"),
    )
    assert [page.role.invalid for page in before.pages] == [1]

    found = step(after, before)

    assert [pair.page.role.level for pair in gone(found)] == [4]
    assert not any(pair.before and pair.after for pair in found.pairs)
