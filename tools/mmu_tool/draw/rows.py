"""The rows of a page's card: runs of like entries folded, and of too many rows the telling ones kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from mmu_model.snapshot import Kind, Snapshot, Spte

from .match import Change, Meaning, Pair, Side, Step, span
from .picture import Link, Row
from .words import access_words, entry_words, hexadecimal

MOST_ROWS: Final = 8
"""Rows of entries in a card; a last one counts what was left out."""


@dataclass(frozen=True)
class Run:
    """``count`` entries from ``first`` on that say the same, each for the next piece of memory."""

    first: int
    count: int
    change: Change
    before: Meaning | None
    after: Meaning | None
    links: tuple[Link, ...]

    @property
    def shown(self) -> Meaning:
        """What is told of the run: as it is or, if it is gone, as it was."""
        meaning = self.after or self.before
        assert meaning is not None
        return meaning


@dataclass(frozen=True)
class Places:
    """``of`` has the key of the card that shows a page, by label; ``stacks`` those that show several."""

    of: Mapping[str, str]
    stacks: frozenset[str]

    def name(self, key: str) -> str:
        """How a row calls the card that it points to."""
        return "folded pages" if key in self.stacks else key


def page_rows(step: Step, pair: Pair, places: Places) -> Iterator[Row]:
    """The entries of one page."""
    runs = _folded(list(_runs(step, pair)), places)
    kept = _kept(runs, places)
    for run in runs:
        if run in kept:
            yield _row(run, step.after.snapshot, places)
    yield from rest_rows([run for run in runs if run not in kept], "more ")


def rest_rows(runs: Sequence[Run], more: str = "") -> Iterator[Row]:
    """Many runs in a row for each change: how many entries of each kind, and where they lead."""
    for change in Change:
        some = [run for run in runs if run.change is change]
        kinds = Counter[str]()
        for run in some:
            kinds[run.shown.kind.value] += run.count
        counted = ", ".join(f"{count} {more}{kind}" for kind, count in kinds.items())
        if some:
            yield Row(f"… {counted} sptes", change, merged(link for run in some for link in run.links))


def all_runs(step: Step, pair: Pair, places: Places) -> list[Run]:
    """All entries of a page, links drawn to cards."""
    return _folded(list(_runs(step, pair)), places)


def merged(links: Iterator[Link]) -> tuple[Link, ...]:
    """One link for each target; it points back only if all do."""
    found: dict[str, Link] = {}
    for link in links:
        known = found.get(link.target)
        found[link.target] = replace(link, back=link.back and known.back) if known else link
    return tuple(found.values())


def _runs(step: Step, pair: Pair) -> Iterator[Run]:
    """Each entry as a run of its own; links name pages, not yet cards."""
    before = step.before.meanings(pair.before) if step.before and pair.before else {}
    after = step.after.meanings(pair.after) if pair.after else {}
    for index in sorted({*before, *after}):
        old, new = before.get(index), after.get(index)
        change = _change(step, pair, old, new)
        side = step.after if new else step.before
        meaning = new or old
        assert side and meaning
        yield Run(index, 1, change, old, new, tuple(_links(side, pair, index, meaning)))


def _change(step: Step, pair: Pair, old: Meaning | None, new: Meaning | None) -> Change:
    """Of a page that is new or gone the card says so, not each of its entries."""
    if step.before is None or old == new or not (pair.before and pair.after):
        return Change.NONE
    if old is None or new is None:
        return Change.ADDED if old is None else Change.REMOVED
    return Change.CHANGED


def _links(side: Side, pair: Pair, index: int, meaning: Meaning) -> Iterator[Link]:
    if meaning.target is not None:
        child = side.by_label[meaning.target]
        yield Link(meaning.target, (pair.label, index) in side.parents(child))


def _folded(runs: Sequence[Run], places: Places) -> list[Run]:
    folded: list[Run] = []
    for each in runs:
        run = replace(each, links=tuple(replace(link, target=places.of[link.target]) for link in each.links))
        last = folded[-1] if folded else None
        if last and _continues(last, run):
            folded[-1] = replace(last, count=last.count + 1, links=merged(iter((*last.links, *run.links))))
        else:
            folded.append(run)
    return folded


def _continues(run: Run, each: Run) -> bool:
    if each.first != run.first + run.count or each.change is not run.change:
        return False
    if {link.target for link in run.links} != {link.target for link in each.links}:
        return False
    return _follows(run.before, each.before, run.count) and _follows(run.after, each.after, run.count)


def _follows(one: Meaning | None, other: Meaning | None, distance: int) -> bool:
    """The other says what the one would if it stood ``distance`` further on."""
    if one is None or other is None:
        return one is other
    if one.kind is Kind.MMIO and other.kind is Kind.MMIO:
        return other.spte.raw == one.spte.raw + (distance << 12)
    gfn = one.gfn if one.gfn is None else one.gfn + distance * span(one.spte.level)
    return (one.spte, gfn) == (other.spte, other.gfn)


def _kept(runs: Sequence[Run], places: Places) -> set[Run]:
    """Changed ones first, then one of each sort, then the rest in order; last what leads to folded pages."""
    if len(runs) <= MOST_ROWS:
        return set(runs)
    sorts: set[Spte] = set()
    ranked = []
    for position, run in enumerate(runs):
        sort = run.shown.spte
        rank = 0 if run.change is not Change.NONE else 2 if sort in sorts else 1
        rank += 3 * any(link.target in places.stacks for link in run.links)
        sorts.add(sort)
        ranked.append((rank, position, run))
    return {run for _, _, run in sorted(ranked, key=lambda each: each[:2])[: MOST_ROWS - 1]}


def _row(run: Run, snapshot: Snapshot, places: Places) -> Row:
    index = f"[{run.first}]" if run.count == 1 else f"[{run.first}–{run.first + run.count - 1}]"
    text = f"{index} {entry_words(run.shown, run.count, snapshot)}"
    wrong = False
    if run.shown.kind is Kind.TABLE:
        wrong = not run.links or not all(link.back for link in run.links)
        text += f" → {places.name(run.links[0].target)}" if run.links else " → a table of no page"
    if run.change is Change.CHANGED and run.before and run.after:
        text += f", was {_was(run.before, run.after, run.count, snapshot)}"
    return Row(text, run.change, run.links, wrong=wrong)


def _was(before: Meaning, after: Meaning, count: int, snapshot: Snapshot) -> str:
    same = (before.kind, before.gfn) == (after.kind, after.gfn)
    if same and before.kind is Kind.LEAF:
        return access_words(before.spte)
    if same and before.kind is Kind.TABLE:
        moved = before.target != after.target
        return access_words(before.spte) + (f" → {before.target or 'no page'}" if moved else "")
    if before.kind is Kind.LEAF and before.spte == after.spte:
        return f"gfn {hexadecimal(before.gfn or 0)}"
    if before.kind is after.kind is Kind.MMIO and before.spte.mmio_gfn == after.spte.mmio_gfn:
        return f"generation {before.spte.mmio_generation}"
    if before.kind is Kind.TABLE:
        return f"→ {before.target or 'no page'}"
    return entry_words(before, count, snapshot)
