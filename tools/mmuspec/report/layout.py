"""The document laid out for a reader: sections of parts, each part made of spans that know their statement.

`Layout.of_document` follows the outline; `Layout.of_spec` makes do with what the spec knows of the items.
What the outline does not place, because the document at hand lacks it, is put at the end of its section.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import ClassVar

from mmuspec.document import Document, Kind, Statement
from mmuspec.outline import Block, Entry, Heading, Listing, Literal, Paragraph, Quote, Run, Table, runs
from mmuspec.report.anchors import Anchors
from mmuspec.report.dossier import Dossier, totals
from mmuspec.report.pairing import Pairing
from mmuspec.report.words import Span, Stretch, Style, spans
from mmuspec.slugs import section_slug
from mmuspec.spec import SpecItem
from mmuspec.status import Status
from mmuspec.text import fold


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    shape: ClassVar[str] = "text"
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Verbatim:
    """Lines that stand as they are."""

    shape: ClassVar[str] = "verbatim"
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of a list; `anchor` leads to the field that its term names, if it does."""

    parts: tuple[Part, ...]
    term: tuple[Span, ...] = ()
    anchor: str = ""


@dataclass(frozen=True, slots=True)
class Members:
    """A list; `definitions` says that its members have terms."""

    shape: ClassVar[str] = "members"
    members: tuple[Member, ...]
    definitions: bool = False


@dataclass(frozen=True, slots=True)
class GridRow:
    cells: tuple[tuple[Part, ...], ...]
    head: bool = False


@dataclass(frozen=True, slots=True)
class Grid:
    """A table."""

    shape: ClassVar[str] = "grid"
    rows: tuple[GridRow, ...]


@dataclass(frozen=True, slots=True)
class Indented:
    """Parts that stand further in."""

    shape: ClassVar[str] = "indented"
    parts: tuple[Part, ...]


Part = Text | Verbatim | Members | Grid | Indented


@dataclass(frozen=True, slots=True)
class Chapter:
    """A heading and what stands under it, up to the next one. `level` is 1 for the document's title.

    `wordless` holds the statements that the spec has in this section and the document at hand has not.
    """

    title: str
    level: int
    anchor: str
    parts: tuple[Part, ...]
    dossiers: tuple[Dossier, ...]
    wordless: tuple[Part, ...] = ()

    @property
    def totals(self) -> Mapping[Status, int]:
        """How many of its statements have each status; every status is there."""
        return totals(self.dossiers)


@dataclass(slots=True)
class _Open:
    """A chapter under way."""

    title: str
    level: int
    parts: list[Part] = field(default_factory=list)
    dossiers: list[Dossier] = field(default_factory=list)
    wordless: list[Part] = field(default_factory=list)

    def closed(self, anchors: Anchors) -> Chapter:
        return Chapter(
            self.title,
            self.level,
            anchors.give(f"section:{section_slug(self.title)}"),
            tuple(self.parts),
            tuple(self.dossiers),
            tuple(self.wordless),
        )


class Layout:
    """Lays out the statements of `items`, each of which has a dossier under its id."""

    def __init__(self, items: Sequence[SpecItem], dossiers: Mapping[str, Dossier], anchors: Anchors) -> None:
        self.items = items
        self.dossiers = dossiers
        self.anchors = anchors

    def of_document(self, document: Document, pairing: Pairing) -> tuple[Chapter, ...]:
        """As the document has it."""
        known = {**pairing.statements, **pairing.reworded}
        statements = {own: self.dossiers[each] for own, each in known.items()}
        fields = {line: self.anchors.give(item) for line, item in pairing.fields.items()}
        placing = _Placing(document, statements, fields)
        opened = [_Open(document.source.title, 1)]
        for block in document.outline.blocks:
            if isinstance(block, Heading):
                opened.append(_Open(fold(block.title), block.level))
            else:
                opened[-1].parts.append(placing.part(block))
                opened[-1].dossiers += placing.taken()
        if len(opened) > 1 and not opened[0].parts:
            del opened[0]
        placed = {dossier.id for chapter in opened for dossier in chapter.dossiers}
        self._add_wordless(opened, placed)
        return tuple(chapter.closed(self.anchors) for chapter in opened)

    def of_spec(self, title: str) -> tuple[Chapter, ...]:
        """As far as the spec tells it: the items in order, each as what its kind looks like."""
        opened = [_Open(title, 1)]
        for section, items in groupby(self.items, key=lambda item: item.section):
            if section != title:
                opened.append(_Open(section, 2))
            parts, dossiers = self._listed(list(items), set())
            opened[-1].parts += parts
            opened[-1].dossiers += dossiers
        return tuple(chapter.closed(self.anchors) for chapter in opened)

    def _add_wordless(self, opened: list[_Open], placed: set[str]) -> None:
        for section, items in groupby(self.items, key=lambda item: item.section):
            parts, dossiers = self._listed(list(items), placed)
            if not parts:
                continue
            chapter = next((each for each in opened if each.title == section), None)
            if chapter is None:
                opened.append(chapter := _Open(section, 2))
            chapter.wordless += parts
            chapter.dossiers += dossiers

    def _listed(self, items: list[SpecItem], without: set[str]) -> tuple[list[Part], list[Dossier]]:
        """Parts for all statements of `items` but those `without`; items of one kind are one list."""
        parts: list[Part] = []
        found: list[Dossier] = []
        for kind, group in groupby(items, key=lambda item: item.kind):
            members = []
            for item in group:
                dossiers = [self.dossiers[s.id] for s in item.statements if s.id not in without]
                if dossiers:
                    members.append(self._member(item, dossiers))
                    found += dossiers
            if members:
                parts += _shaped(kind, members)
        return parts, found

    def _member(self, item: SpecItem, dossiers: list[Dossier]) -> Member:
        text = Text(tuple(span for dossier in dossiers for span in (_span(dossier), SPACE)))
        if not item.names:
            return Member((text,))
        term = Span(((Style.PLAIN, " / ".join(item.names)),))
        return Member((text,), (term,), self.anchors.give(item.id))


SPACE = Span(((Style.PLAIN, " "),))


def _span(dossier: Dossier) -> Span:
    return Span(((Style.PLAIN, dossier.text),) if dossier.text is not None else (), dossier)


def _shaped(kind: Kind, members: list[Member]) -> list[Part]:
    match kind:
        case Kind.FIELD:
            return [Members(tuple(members), definitions=True)]
        case Kind.PARAGRAPH:
            return [part for member in members for part in member.parts]
        case _:
            return [Members(tuple(members))]


class _Placing:
    """Turns blocks into parts and notes which statements it came upon.

    A piece of a statement lies in a run of the outline, or in a run that was cut from one at line ends.
    """

    def __init__(
        self, document: Document, dossiers: Mapping[str, Dossier], field_anchors: Mapping[int, str]
    ) -> None:
        whole = {id(run) for run in runs(document.outline.blocks)}
        self.in_run: dict[int, list[Stretch]] = defaultdict(list)
        self.cut_at: dict[int, list[tuple[Run, Stretch]]] = defaultdict(list)
        self.field_anchors = field_anchors
        self.found: list[Dossier] = []
        for statement in document.statements:
            for run, stretch in _stretches(statement, dossiers.get(statement.id)):
                if id(run) in whole:
                    self.in_run[id(run)].append(stretch)
                else:
                    self.cut_at[run.lines[0]].append((run, stretch))

    def taken(self) -> list[Dossier]:
        """The statements come upon since the last time."""
        found, self.found = self.found, []
        return found

    def part(self, block: Block) -> Part:
        match block:
            case Paragraph(run):
                return Text(self._spans(run))
            case Literal(run):
                return Verbatim(self._spans(run))
            case Quote(blocks):
                return Indented(self._parts(blocks))
            case Table(rows):
                return Grid(
                    tuple(GridRow(tuple(self._parts(cell) for cell in row.cells), row.head) for row in rows)
                )
            case Listing(entries, definitions):
                return Members(tuple(self._entry(entry) for entry in entries), definitions)
            case Heading():
                return Text((Span(((Style.STRONG, block.title),)),))

    def _parts(self, blocks: Iterable[Block]) -> tuple[Part, ...]:
        return tuple(self.part(block) for block in blocks)

    def _entry(self, entry: Entry) -> Member:
        if entry.term is None:
            return Member(self._parts(entry.blocks))
        term = self._spans(entry.term)
        return Member(self._parts(entry.blocks), term, self.field_anchors.get(entry.term.lines[0], ""))

    def _spans(self, run: Run) -> tuple[Span, ...]:
        stretches = self.in_run.get(id(run)) or [*self._cuts(run)]
        self.found += [stretch.dossier for stretch in stretches if stretch.first and stretch.dossier]
        return spans(run, stretches)

    def _cuts(self, run: Run) -> Iterator[Stretch]:
        offset = 0
        for line, row in zip(run.lines, run.raw.split("\n"), strict=False):
            for cut, stretch in self.cut_at.get(line, ()):
                if run.raw.startswith(cut.raw, offset):
                    yield Stretch(
                        stretch.start + offset,
                        stretch.stop + offset,
                        stretch.dossier,
                        stretch.first,
                        stretch.last,
                    )
            offset += len(row) + 1


def _stretches(statement: Statement, dossier: Dossier | None) -> Iterator[tuple[Run, Stretch]]:
    last = len(statement.pieces) - 1
    for place, piece in enumerate(statement.pieces):
        yield piece.run, Stretch(piece.start, piece.stop, dossier, place == 0, place == last)
