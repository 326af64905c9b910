"""A diff applied to a text: where each hunk fits, how closely it had to, and which line came from where.

The ways in which a hunk may fit, the first that does counts:

==========  ==========================================================================================
exact       its old lines stand in the text, near where it says or elsewhere
folded      so they do, white space aside: the diff was flattened on its way, or was made for a page with
            other white space. What is added is indented as its surroundings are (`indentation`)
fuzz 1, 2   exact or folded without that many lines of context at an end, as ``patch`` allows
blind       a patch of the series before this one is missing: no context at one end need stand
==========  ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mmuspec.review.diffs import DiffLine, Hunk, Kind
from mmuspec.review.indentation import indented_like
from mmuspec.text import fold

FUZZ = 2
BLIND = 8


@dataclass(frozen=True, slots=True)
class Misfit:
    """A hunk that does not fit: what it wants, and what stands in the text instead, on which line.

    `done` says that what it would make stands in the text already.
    """

    hunk: int
    line: int
    wanted: str
    found: str
    found_line: int
    done: bool = False


@dataclass(frozen=True, slots=True)
class Fit:
    """How a hunk was made to fit. `offset` is in lines, `fuzz` the context lines left out."""

    hunk: int
    line: int
    offset: int = 0
    fuzz: int = 0
    folded: bool = False

    @property
    def is_exact(self) -> bool:
        """Whether nobody need be told."""
        return not (self.offset or self.fuzz or self.folded)


@dataclass(frozen=True, slots=True)
class Patched:
    """The text with the hunks applied that fit.

    `added[n]` is the line of the diff that put line n of the new text there, or shows it as context;
    `removed[n]` that which removes, or shows, line n of the old text. Lines count from 1.
    """

    lines: tuple[str, ...]
    added: dict[int, DiffLine]
    removed: dict[int, DiffLine]
    fits: tuple[Fit, ...]
    misfits: tuple[Misfit, ...]


def apply(lines: Sequence[str], hunks: Sequence[Hunk], *, blind: bool = False) -> Patched:
    """Apply `hunks` to `lines`, those that fit. `blind` says that a patch before this one is missing."""
    placed: list[tuple[int, int, int, Hunk, Fit]] = []
    misfits: list[Misfit] = []
    offset = after = 0
    for number, hunk in enumerate(hunks, 1):
        found = next(_fits(lines, hunk, number, offset, after, blind), None)
        if found is None:
            misfits.append(_misfit(lines, hunk, number, offset))
            continue
        lead, start, stop, fit = found
        placed.append((lead, start, stop, hunk, fit))
        offset, after = fit.offset, stop
    return _assembled(lines, placed, misfits)


def _fits(
    lines: Sequence[str], hunk: Hunk, number: int, offset: int, after: int, blind: bool
) -> Iterator[tuple[int, int, int, Fit]]:
    """Ways to fit, best first: the hunk's first line used, first line of the text and the line after the last."""
    lead, trail = _context(hunk)
    old = [line.text for line in hunk.old]
    readings = ((lines, old, False), ([fold(row) for row in lines], [fold(row) for row in old], True))
    for front, back in _trims(lead, trail, BLIND if blind else FUZZ):
        for rows, all_wanted, folded in readings:
            wanted = all_wanted[front : len(old) - back]
            if front + back and not any(row.strip() for row in wanted):
                continue
            expected = max(hunk.start - 1, 0) + offset + front
            at = _nearest(rows, wanted, expected, after)
            if at is not None:
                moved = at - (expected - offset)
                yield front, at, at + len(wanted), Fit(number, hunk.line, moved, max(front, back), folded)


def _context(hunk: Hunk) -> tuple[int, int]:
    """How many lines of context stand before the first change and behind the last one."""
    changes = [place for place, line in enumerate(hunk.lines) if line.kind is not Kind.CONTEXT]
    if not changes:
        return 0, 0
    return changes[0], len(hunk.lines) - 1 - changes[-1]


def _trims(lead: int, trail: int, most: int) -> list[tuple[int, int]]:
    """How much context to leave out in front and behind, least first; beyond `FUZZ` at one end only."""
    trims = {(min(front, lead), min(back, trail)) for front in range(most + 1) for back in range(most + 1)}
    allowed = {(front, back) for front, back in trims if max(front, back) <= FUZZ or not (front and back)}
    return sorted(allowed, key=lambda trim: (max(trim), sum(trim), trim))


def _nearest(rows: Sequence[str], wanted: Sequence[str], expected: int, after: int) -> int | None:
    """Where `wanted` stands in `rows`, not before `after`, nearest to `expected`."""
    if not wanted:
        return min(max(expected, after), len(rows))
    size = len(wanted)
    places = [
        at
        for at in range(after, len(rows) - size + 1)
        if rows[at] == wanted[0] and list(rows[at : at + size]) == list(wanted)
    ]
    return min(places, key=lambda at: abs(at - expected), default=None)


def _misfit(lines: Sequence[str], hunk: Hunk, number: int, offset: int) -> Misfit:
    """The line at which the best alignment breaks."""
    old = [fold(line.text) for line in hunk.old]
    rows = [fold(line) for line in lines]
    expected = max(hunk.start - 1, 0) + offset
    new = [fold(line.text) for line in hunk.lines if line.kind is not Kind.REMOVED]
    done = _nearest(rows, new, expected, 0) is not None
    best = max(range(max(len(rows), 1)), key=lambda at: (_alike(rows[at:], old), -abs(at - expected)))
    best = best if _alike(rows[best:], old) else min(expected, max(len(rows) - 1, 0))
    for place, line in enumerate(hunk.old):
        there = rows[best + place] if best + place < len(rows) else ""
        if there != old[place]:
            found = lines[best + place].strip() if best + place < len(lines) else ""
            return Misfit(number, line.at.number, line.text.strip(), found, best + place + 1, done)
    return Misfit(number, hunk.line, "", lines[best].strip() if lines else "", best + 1, done)


def _alike(rows: Sequence[str], old: Sequence[str]) -> int:
    """How many lines with something on them are the same."""
    return sum(row == wanted for row, wanted in zip(rows[: len(old)], old, strict=False) if wanted)


def _assembled(
    lines: Sequence[str], placed: Sequence[tuple[int, int, int, Hunk, Fit]], misfits: Sequence[Misfit]
) -> Patched:
    new: list[str] = []
    added: dict[int, DiffLine] = {}
    removed: dict[int, DiffLine] = {}
    done = 0
    for lead, start, stop, hunk, fit in placed:
        new += lines[done:start]
        at, left = start, stop - start
        skipped = lead
        for line in hunk.lines:
            if line.kind is Kind.ADDED:
                text = indented_like(line.text, new, lines[at:]) if fit.folded else line.text
                new.append(text)
                added[len(new)] = line
            elif skipped:
                skipped -= 1
            elif left:
                removed[at + 1] = line
                if line.kind is Kind.CONTEXT:
                    new.append(lines[at])
                    added[len(new)] = line
                at, left = at + 1, left - 1
        done = stop
    new += lines[done:]
    return Patched(tuple(new), added, removed, tuple(fit for *_, fit in placed), tuple(misfits))
