"""From source text to items and statements: the document taken apart.

Which block becomes which kind of item is told by `_Extraction._block`; what the kinds look like in a source
is told by the patterns at the head of this module.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

from mmuspec import rst
from mmuspec.document import Document, Item, Kind, Piece, Source, Statement
from mmuspec.outline import Block, Entry, Heading, Listing, Literal, Paragraph, Quote, Run, Table, runs
from mmuspec.outliner import outline
from mmuspec.sentences import sentences
from mmuspec.slugs import section_slug, text_slug, unique
from mmuspec.text import digest, fold

NAME = r"[A-Za-z_][\w]*(?:(?:\.|->)[A-Za-z_]\w*)*"
FIELD_TERM = re.compile(rf"({NAME}(?:\s*[/,]\s*{NAME})*)\s*:?$")
BETWEEN_NAMES = re.compile(r"\s*[/,]\s*")
REQUIREMENTS = re.compile(r"\brequirements?\b", re.IGNORECASE)
ACRONYMS = re.compile(r"\b(acronyms?|abbreviations?|glossary|terminology|terms)\b", re.IGNORECASE)
MAPPING_LINE = re.compile(r"\s*([^:]+):\s{2,}\S")
KEY = re.compile(r"([\w -]{1,40}):\s")
NO_TITLE = "(untitled)"
LEAD_SLUG = "introduction"


def extract(source: str, path: str, release: str = "") -> tuple[Document, list[rst.Complaint]]:
    """Take `source` apart, and say what docutils found wrong with it. Never raises."""
    read, complaints = outline(source)
    title = next((block.title for block in read.blocks if isinstance(block, Heading)), NO_TITLE)
    items = _Extraction(title).items(read.blocks)
    sha256 = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
    about = Source(path, fold(title), sha256, len(source.splitlines()), release)
    return Document(about, tuple(items), read), complaints


class _Extraction:
    """Walks the blocks in reading order; knows the section it is in and the ids it has given."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.section = title
        self.taken: set[str] = set()

    def items(self, blocks: Iterable[Block]) -> list[Item]:
        return list(self._blocks(blocks))

    def _blocks(self, blocks: Iterable[Block]) -> Iterator[Item]:
        before: Block | None = None
        for block in blocks:
            yield from self._block(block, before)
            before = block

    def _block(self, block: Block, before: Block | None) -> Iterator[Item]:
        match block:
            case Heading():
                self.section = block.title
            case Paragraph(run) if _is_mapping(run):
                yield from self._mapping(run)
            case Paragraph(run):
                yield self._item(Kind.PARAGRAPH, _sentences([run]))
            case Literal(run):
                yield from self._literal(run)
            case Quote(blocks):
                yield from self._blocks(blocks)
            case Table():
                yield from self._table(block)
            case Listing(definitions=True):
                for entry in block.entries:
                    yield from self._definition(entry)
            case Listing():
                kind = Kind.REQUIREMENT if _speaks_of_requirements(before) else Kind.BULLET
                for entry in block.entries:
                    yield from self._bullet(entry, kind)

    def _bullet(self, entry: Entry, kind: Kind) -> Iterator[Item]:
        """The entry's own text is one item; what is nested in it makes items of its own."""
        text = [
            block.run for block in entry.blocks if isinstance(block, Paragraph) and not _is_mapping(block.run)
        ]
        if text:
            yield self._item(kind, _sentences(text), key=_key(text[0]) if kind is Kind.REQUIREMENT else None)
        nested = [
            block for block in entry.blocks if not isinstance(block, Paragraph) or block.run not in text
        ]
        yield from self._blocks(nested)

    def _definition(self, entry: Entry) -> Iterator[Item]:
        """A term that is a name, with text below it, is a field; any other is text, and so is what is below."""
        field = FIELD_TERM.match(entry.term.plain) if entry.term else None
        statements = _sentences(runs(entry.blocks)) if field else []
        if field and statements:
            names = tuple(BETWEEN_NAMES.split(field[1]))
            yield self._item(Kind.FIELD, statements, names=names, term=entry.term)
            return
        if entry.term:
            yield self._item(Kind.PARAGRAPH, _sentences([entry.term]))
        yield from self._blocks(entry.blocks)

    def _table(self, table: Table) -> Iterator[Item]:
        kind = Kind.ACRONYM if ACRONYMS.search(self.section) else Kind.TABLE_ROW
        for row in table.rows:
            cells = [run for cell in row.cells for run in runs(cell)]
            if cells and not row.head:
                yield self._item(kind, [_whole(*cells)], key=fold(cells[0].plain))
            elif cells:
                yield self._item(Kind.TABLE_ROW, [_whole(*cells)])

    def _literal(self, run: Run) -> Iterator[Item]:
        if any(MAPPING_LINE.match(row) for row in run.raw.split("\n")):
            yield from self._mapping(run)
        else:
            yield self._item(Kind.PARAGRAPH, [_whole(run)])

    def _mapping(self, run: Run) -> Iterator[Item]:
        """Each ``key:   value`` line is an item; lines that are none make paragraphs, a footnote say."""
        text: Run | None = None
        for row in run.rows():
            if not row.raw.strip() or MAPPING_LINE.match(row.raw):
                if text:
                    yield self._item(Kind.PARAGRAPH, _sentences([text]))
                text = None
            if MAPPING_LINE.match(row.raw):
                yield self._item(Kind.MAPPING, [_whole(row)], key=row.raw.partition(":")[0])
            elif row.raw.strip():
                text = text.joined(row) if text else row
        if text:
            yield self._item(Kind.PARAGRAPH, _sentences([text]))

    def _item(
        self,
        kind: Kind,
        statements: list[tuple[Piece, ...]],
        *,
        key: str | None = None,
        names: tuple[str, ...] = (),
        term: Run | None = None,
    ) -> Item:
        words = [_words(pieces) for pieces in statements]
        if names:
            wanted = names[0]
        else:
            section = LEAD_SLUG if self.section == self.title else section_slug(self.section)
            wanted = f"{section}/{section_slug(key) if key else text_slug(words[0])}"
        item_id = unique(wanted, self.taken)
        taken: set[str] = set()
        found = tuple(
            _statement(f"{item_id}/{unique(text_slug(text, item_id), taken)}", pieces, text)
            for pieces, text in zip(statements, words, strict=True)
        )
        first = term.lines[0] if term else found[0].line
        return Item(item_id, kind, names, fold(self.section), first, max(s.end_line for s in found), found)


def _statement(statement_id: str, pieces: tuple[Piece, ...], words: str) -> Statement:
    lines = [
        line
        for piece in pieces
        for line in (piece.run.line_at(piece.start), piece.run.line_at(piece.stop - 1))
    ]
    text = fold(" ".join(piece.run.raw[piece.start : piece.stop] for piece in pieces))
    return Statement(statement_id, min(lines), max(lines), digest(words), text, pieces)


def _words(pieces: tuple[Piece, ...]) -> str:
    """The words of a statement, its markup removed."""
    return " ".join(piece.run.plain_between(piece.start, piece.stop) for piece in pieces)


def _whole(*runs: Run) -> tuple[Piece, ...]:
    return tuple(_trimmed(run, 0, len(run.raw)) for run in runs)


def _sentences(runs: list[Run]) -> list[tuple[Piece, ...]]:
    """Each sentence as one piece; markup that stands between two sentences goes with the word it touches."""
    found: list[tuple[Piece, ...]] = []
    for run in runs:
        spans = sentences(run.plain)
        starts = [0, *(_word_start(run, start) for start, _ in spans[1:]), len(run.raw)]
        found += [(_trimmed(run, start, stop),) for start, stop in pairwise(starts) if spans]
        if not spans and run.raw.strip():
            found.append((_trimmed(run, 0, len(run.raw)),))
    return found


def _word_start(run: Run, plain_start: int) -> int:
    place = run.origin[plain_start]
    while place and not run.raw[place - 1].isspace():
        place -= 1
    return place


def _trimmed(run: Run, start: int, stop: int) -> Piece:
    text = run.raw[start:stop]
    return Piece(run, start + len(text) - len(text.lstrip()), stop - len(text) + len(text.rstrip()))


def _is_mapping(run: Run) -> bool:
    """Whether a paragraph is lines of ``key:   value``. One such line alone is text with a gap in it."""
    rows = run.raw.split("\n")
    return len(rows) > 1 and all(map(MAPPING_LINE.match, rows))


def _speaks_of_requirements(block: Block | None) -> bool:
    return isinstance(block, Paragraph) and bool(REQUIREMENTS.search(block.run.plain))


def _key(run: Run) -> str | None:
    key = KEY.match(run.raw + " ")
    return key[1] if key else None
