"""The cards of memory slots: the reverse map, tables whose writes are tracked, what the dirty log has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mmu_model.snapshot import Memslot

from .match import Change, Side, Step, by_label, span
from .picture import Card, Row
from .words import hexadecimal

MOST_ROWS: Final = 7
MOST_SLOTS: Final = 4
FEW: Final = 3
FLAGS = ((1, "dirty log"), (2, "read-only"))  # KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY

Spot = tuple[str, int]  # label of a page, index


def slot_cards(step: Step, column: int) -> Iterator[Card]:
    """Slots of which there is something to tell."""
    new = _by_id(step.after)
    old = _by_id(step.before) if step.before else {}
    drawn = 0
    for key in sorted({*new, *old}):
        card = _card(step, key, old.get(key), new.get(key), column)
        if (card.rows or card.change is not Change.NONE) and drawn < MOST_SLOTS:
            drawn += 1
            yield card


def _by_id(side: Side) -> Mapping[tuple[int, int], Memslot]:
    return {(slot.as_id, slot.id): slot for slot in side.snapshot.memslots}


def _card(step: Step, key: tuple[int, int], old: Memslot | None, new: Memslot | None, column: int) -> Card:
    slot = new or old
    assert slot is not None
    change = Change.NONE
    if step.before and not (old and new):
        change = Change.ADDED if new else Change.REMOVED
    elif step.before and old and new and (old.base_gfn, old.flags) != (new.base_gfn, new.flags):
        change = Change.CHANGED
    words = [f"gfn {hexadecimal(slot.base_gfn, slot.base_gfn + slot.npages - 1)}"]
    words += [name for bit, name in FLAGS if slot.flags & bit]
    return Card(
        key=f"slot-{key[0]}-{key[1]}",
        column=column,
        title=f"slot {slot.id}" + (", SMM" if slot.as_id else ""),
        words=tuple(words),
        rows=tuple(_rows(step, old, new)),
        change=change,
    )


def _rows(step: Step, old: Memslot | None, new: Memslot | None) -> Iterator[Row]:
    """Tracked tables, the dirty log, then the reverse map, telling rows first if there are too many."""
    compared = bool(old and new)
    yield from _frames("writes tracked:", _tracked(old), _tracked(new), compared=compared)
    yield from _frames("dirty:", _dirty(old), _dirty(new), compared=compared)
    before = _rmap(step.before, old) if step.before and old else {}
    after = _rmap(step.after, new) if new else {}
    lines = list(_folded(_lines(before, after, compared=compared)))
    ranked = sorted(lines, key=lambda line: (line.change is Change.NONE, len(line.spots) == 1))
    kept = ranked if len(lines) <= MOST_ROWS else ranked[: MOST_ROWS - 1]
    yield from (line.row() for line in lines if line in kept)
    if left_out := len(lines) - len(kept):
        yield Row(f"… {left_out} more rows of the rmap")


def _tracked(slot: Memslot | None) -> set[int]:
    return {gfn for gfn, _ in slot.gfn_write_track} if slot else set()


def _dirty(slot: Memslot | None) -> set[int]:
    return set(slot.dirty or ()) if slot else set()


def _frames(title: str, old: set[int], new: set[int], *, compared: bool) -> Iterator[Row]:
    """Frames in ranges, with their signs if two are compared."""
    if not compared:
        old = new = new or old
    for change, frames in ((Change.NONE, old & new), (Change.ADDED, new - old), (Change.REMOVED, old - new)):
        ranges = [hexadecimal(*each) for each in _ranges(frames)]
        more = f" and {len(ranges) - FEW} more" if len(ranges) > FEW else ""
        if ranges:
            yield Row(f"{title} {', '.join(ranges[:FEW])}{more}", change)


def _ranges(numbers: Iterable[int]) -> Sequence[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    return found


@dataclass(frozen=True)
class _Line:
    """``count`` frames from ``gfn`` on; the entries that map the first of them."""

    level: int
    gfn: int
    count: int
    spots: tuple[Spot, ...]
    change: Change

    def row(self) -> Row:
        label, index = self.spots[0]
        if self.count > 1:
            where = f"{label}[{index}–{index + self.count - 1}]"
        else:
            where = ", ".join(f"{label}[{index}]" for label, index in self.spots[:FEW])
            where += f" and {len(self.spots) - FEW} more" if len(self.spots) > FEW else ""
        frames = hexadecimal(self.gfn, self.gfn + (self.count - 1) * span(self.level))
        return Row(f"rmap {frames} → {where}", self.change)


def _rmap(side: Side, slot: Memslot) -> Mapping[tuple[int, int], tuple[Spot, ...]]:
    return {
        (each.level, each.gfn): tuple(
            sorted(((side.labels.get(at.page, "?"), at.index) for at in each.sptes), key=by_label)
        )
        for each in slot.rmap
        if each.sptes
    }


def _lines(
    old: Mapping[tuple[int, int], tuple[Spot, ...]],
    new: Mapping[tuple[int, int], tuple[Spot, ...]],
    *,
    compared: bool,
) -> Iterator[_Line]:
    for level, gfn in sorted({*old, *new}):
        was, now = old.get((level, gfn)), new.get((level, gfn))
        change = Change.NONE
        if compared and was != now:
            change = Change.ADDED if was is None else Change.REMOVED if now is None else Change.CHANGED
        yield _Line(level, gfn, 1, now or was or (), change)


def _folded(lines: Iterable[_Line]) -> Iterator[_Line]:
    """Frames in a row that entries in a row of one page map, in one line."""
    run: _Line | None = None
    for line in lines:
        if run and _continues(run, line):
            run = _Line(run.level, run.gfn, run.count + 1, run.spots, run.change)
            continue
        if run:
            yield run
        run = line
    if run:
        yield run


def _continues(run: _Line, line: _Line) -> bool:
    if len(run.spots) != 1 or len(line.spots) != 1:
        return False
    (label, index), other = run.spots[0], line.spots[0]
    distance = run.count * span(run.level)
    return (
        (line.level, line.gfn, line.change) == (run.level, run.gfn + distance, run.change)
        and other == (label, index + run.count)
    )  # fmt: skip
