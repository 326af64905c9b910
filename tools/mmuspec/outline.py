"""A document as its reader sees it: blocks of text, each character tied to its source line.

docutils' tree is the starting point, `Outline` what remains once its quirks are undone: sub-bullets without
a blank line before them, columns without a table, lines that no node accounts for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Run:
    """A stretch of source text without a block boundary in it.

    `raw` has the source lines joined by ``"\\n"``, indentation removed; `lines[i]` is the source line of its
    i-th line, counted from 1; `plain` is `raw` less its inline markup and `origin[i]` the place in `raw` of
    plain's i-th character.
    """

    raw: str
    plain: str
    origin: tuple[int, ...] | range
    lines: tuple[int, ...]

    @classmethod
    def of(cls, raw: str, lines: tuple[int, ...], plain: str | None = None) -> Run:
        """`plain` left out, or no subsequence of `raw`: then nothing in `raw` is markup."""
        origin = None if plain is None else _origin(raw, plain)
        if origin is None or plain is None:
            return cls(raw, raw, range(len(raw)), lines)
        return cls(raw, plain, origin, lines)

    def line_at(self, position: int) -> int:
        """The source line of the character at `position` of `raw`."""
        return self.lines[min(self.raw.count("\n", 0, position), len(self.lines) - 1)]

    def rows(self) -> list[Run]:
        """The run cut at its line ends."""
        return [self.cut(first, first + 1) for first in range(len(self.lines))]

    def cut(self, first: int, after: int) -> Run:
        """Lines `first` up to, not including, `after`, as a run of its own."""
        ends = [-1, *(i for i, c in enumerate(self.raw) if c == "\n"), len(self.raw)]
        return self._between(ends[first] + 1, ends[after], self.lines[first:after])

    def until(self, place: int) -> Run:
        """What stands before `place` of `raw`, on the first line."""
        return self._between(0, place, self.lines[:1])

    def after(self, place: int) -> Run:
        """What stands from `place` of `raw`, on the first line, to the end."""
        return self._between(place, len(self.raw), self.lines)

    def _between(self, start: int, stop: int, lines: tuple[int, ...]) -> Run:
        first, after = bisect_left(self.origin, start), bisect_left(self.origin, stop)
        origin = tuple(place - start for place in self.origin[first:after])
        return Run(self.raw[start:stop], self.plain[first:after], origin, lines)

    def plain_between(self, start: int, stop: int) -> str:
        """The words of characters `start` to `stop` of `raw`: markup removed."""
        return self.plain[bisect_left(self.origin, start) : bisect_left(self.origin, stop)]

    def adjoins(self, other: Run) -> bool:
        """`other` begins on the line after this run's last."""
        return other.lines[0] == self.lines[-1] + 1

    def joined(self, other: Run, indent: str = "") -> Run:
        """This run and `other` below it; `indent` remembers that other's first line stood further in."""
        between = "\n" + indent
        offset = len(self.raw) + len(between)
        origin = (*self.origin, *range(len(self.raw), offset), *(o + offset for o in other.origin))
        return Run(
            self.raw + between + other.raw,
            self.plain + between + other.plain,
            origin,
            self.lines + other.lines,
        )


def _origin(raw: str, plain: str) -> tuple[int, ...] | range | None:
    """Where each character of `plain` stands in `raw`, leftmost fit; None if it is no subsequence."""
    if raw == plain:
        return range(len(raw))
    places, start = [], 0
    for character in plain:
        place = raw.find(character, start)
        if place < 0:
            return None
        places.append(place)
        start = place + 1
    return tuple(places)


@dataclass(slots=True)
class Heading:
    """A section starts here. `level` is 1 for the title."""

    title: str
    line: int
    level: int


@dataclass(slots=True)
class Paragraph:
    run: Run


@dataclass(slots=True)
class Literal:
    """A literal block: its lines as they stand, or, in `mapped`, one ``key: value`` a line."""

    run: Run


@dataclass(slots=True)
class Entry:
    """One entry of a list. A term stands before the body where the list is one of definitions."""

    blocks: list[Block]
    term: Run | None = None


@dataclass(slots=True)
class Listing:
    """A list: bulleted, numbered, or of definitions."""

    entries: list[Entry]
    definitions: bool = False


@dataclass(slots=True)
class Row:
    cells: list[list[Block]]
    head: bool = False


@dataclass(slots=True)
class Table:
    rows: list[Row]


@dataclass(slots=True)
class Quote:
    """An indented part."""

    blocks: list[Block]


Block = Heading | Paragraph | Literal | Listing | Table | Quote


@dataclass(slots=True)
class Outline:
    """All blocks of a document in reading order; headings stand among them."""

    blocks: list[Block] = field(default_factory=list)


def runs(blocks: Iterable[Block]) -> list[Run]:
    """The text of blocks, however deep, in reading order."""
    found: list[Run] = []
    for block in blocks:
        match block:
            case Paragraph(run) | Literal(run):
                found.append(run)
            case Quote(inner):
                found += runs(inner)
            case Listing(entries):
                for entry in entries:
                    found += [entry.term] if entry.term else []
                    found += runs(entry.blocks)
            case Table(rows):
                found += [run for row in rows for cell in row.cells for run in runs(cell)]
    return found
