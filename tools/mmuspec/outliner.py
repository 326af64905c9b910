"""From a source text to its outline: docutils' tree with its quirks undone.

The reader's rules, each a small function below:

- text on adjoining lines is one paragraph, whatever its indentation;
- a list entry, or a long line, with text hanging below it is a paragraph, not a definition;
- a paragraph of ``word   text`` lines is a table of two columns;
- a line that no node accounts for is a paragraph of its own: no word is ever lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import cast

from docutils import nodes

from mmuspec import rst
from mmuspec.outline import (
    Block,
    Entry,
    Heading,
    Listing,
    Literal,
    Outline,
    Paragraph,
    Quote,
    Row,
    Run,
    Table,
)
from mmuspec.spacing import INSERTED, spaced

WORD = re.compile(r"[^\W_]")
LONGEST_TERM = 8  # words
EXPLICIT_MARKUP = re.compile(r"\s*(\.\. |__ )")
COLUMNS = re.compile(r"(\S*[^\s:])\s{2,}(?=\S)")


def outline(source: str) -> tuple[Outline, list[rst.Complaint]]:
    """Read `source`. Never raises: a text that docutils cannot bear is read as plain paragraphs."""
    source_lines = source.splitlines()
    lines, numbers = spaced(source_lines)
    try:
        reading = rst.read("\n".join(lines))
        outliner = _Outliner(lines, numbers)
        blocks = outliner.blocks(reading.tree)
    except Exception as error:  # docutils' own faults on hostile text, RecursionError among them
        complaint = rst.Complaint(1, rst.SEVERE_LEVEL, f"docutils gave up: {type(error).__name__}")
        return Outline([*_plain_paragraphs(source_lines, set())]), [complaint]
    complaints = [rst.Complaint(outliner.source_line(c.line), c.level, c.message) for c in reading.complaints]
    known = outliner.accounted | {outliner.source_line(line) for line in reading.markup_lines}
    return Outline(_with_lost_lines(blocks, source_lines, known)), complaints


class _Outliner:
    """Turns nodes into blocks. Knows the lines docutils saw and which source line each was."""

    def __init__(self, lines: list[str], numbers: list[int]) -> None:
        self.lines = lines
        self.numbers = numbers
        self.accounted: set[int] = set()

    def source_line(self, line: int | None) -> int:
        """The source line of docutils' `line`; of the next one for a line that was put in."""
        index = min(max((line or 1) - 1, 0), len(self.numbers) - 1)
        number = self.numbers[index] if self.numbers else 1
        return number if number != INSERTED else self.numbers[index + 1]

    def blocks(self, node: nodes.Element, level: int = 0) -> list[Block]:
        found: list[Block] = []
        for child in node.children:
            if isinstance(child, nodes.Element):
                found.extend(self._block(child, level))
        return _joined(found)

    def _block(self, node: nodes.Element, level: int) -> Iterator[Block]:
        match node:
            case nodes.section():
                yield from self._section(node, level + 1)
            case nodes.system_message():
                return
            case nodes.comment() | nodes.target() | nodes.substitution_definition():
                self._account(node)
            case nodes.literal_block() | nodes.doctest_block():
                yield Literal(self._run(node))
            case nodes.bullet_list() | nodes.enumerated_list():
                yield Listing([Entry(self._entry(item, level)) for item in _elements(node)])
            case nodes.definition_list() | nodes.field_list() | nodes.option_list():
                yield from _definitions([self._definition(item, level) for item in _elements(node)])
            case nodes.table():
                yield Table([*self._rows(node, level)])
            case nodes.line_block():
                yield from self._line_block(node)
            case nodes.TextElement():
                if node.astext().strip():
                    yield Paragraph(self._run(node))
            case _ if node.get("rows"):
                yield from _listed_rows(self.blocks(node, level))
            case nodes.block_quote():
                yield Quote(self.blocks(node, level))
            case _:
                yield from self.blocks(node, level)

    def _section(self, node: nodes.section, level: int) -> Iterator[Block]:
        title = cast(nodes.title, node.next_node(nodes.title))
        line = self._title_line(title)
        self.accounted.add(line)
        yield Heading(title.astext(), line, level)
        yield from self.blocks(nodes.container("", *node.children[1:]), level)

    def _title_line(self, title: nodes.title) -> int:
        """docutils counts the line below the title, or the title's own."""
        guess = title.line or 1
        for line in (guess - 1, guess, guess - 2):
            if 0 < line <= len(self.lines) and self.lines[line - 1].strip() == title.rawsource.strip():
                return self.source_line(line)
        return self.source_line(guess)

    def _entry(self, node: nodes.Element, level: int) -> list[Block]:
        """The blocks of a list entry. A mark with nothing behind it, ``512.`` say, is text like any other."""
        blocks = _hanging(self.blocks(node, level))
        row = self.lines[(node.line or 1) - 1].strip()
        if blocks or not WORD.search(row):
            return blocks
        self.accounted.add(self.source_line(node.line))
        return [Paragraph(Run.of(row, (self.source_line(node.line),)))]

    def _definition(self, node: nodes.Element, level: int) -> Entry:
        term, *rest = _elements(node)
        body = [
            block
            for part in rest
            if not isinstance(part, nodes.classifier)
            for block in self.blocks(part, level)
        ]
        return Entry(_joined(body), self._run(term))

    def _rows(self, table: nodes.table, level: int) -> Iterator[Row]:
        for row in table.findall(nodes.row):
            yield Row(
                [self.blocks(cell, level) for cell in _elements(row)], isinstance(row.parent, nodes.thead)
            )

    def _line_block(self, node: nodes.line_block) -> Iterator[Block]:
        for child in _elements(node):
            if isinstance(child, nodes.line_block):
                yield from self._line_block(child)
            elif child.astext().strip():
                yield Paragraph(self._run(child))

    def _run(self, node: nodes.Element) -> Run:
        """The node's source text with the source line of each of its lines."""
        raw = node.rawsource or node.astext()
        rows = raw.split("\n")
        first = self._find(rows, (node.line or self._line_above(node)) - 1)
        kept = [
            (row, self.source_line(first + offset + 1))
            for offset, row in enumerate(rows)
            if first + offset >= len(self.numbers) or self.numbers[first + offset] != INSERTED
        ] or [(raw, self.source_line(first + 1))]
        self.accounted.update(line for _, line in kept)
        raw = "\n".join(row for row, _ in kept)
        return Run.of(raw, tuple(line for _, line in kept), node.astext())

    def _line_above(self, node: nodes.Element) -> int:
        parent: nodes.Element | None = node.parent
        while parent is not None:
            if parent.line:
                return int(parent.line)
            parent = parent.parent
        return 1

    def _find(self, rows: list[str], guess: int) -> int:
        """The index of the line where `rows` stand in the text: at `guess`, or as near to it as can be."""
        for distance in range(len(self.lines)):
            for start in {guess + distance, guess - distance}:
                if 0 <= start <= len(self.lines) - len(rows) and self._stand_at(rows, start):
                    return start
            if distance > 200:
                break
        return max(0, min(guess, len(self.lines) - 1))

    def _stand_at(self, rows: list[str], start: int) -> bool:
        return all(row.strip() in self.lines[start + i].expandtabs(8) for i, row in enumerate(rows))

    def _account(self, node: nodes.Element) -> None:
        """Note the lines of a comment or a target; docutils counts the line after it, or the first."""
        rows = node.rawsource.splitlines()
        if rows:
            first = self._find(rows, (node.line or 1) - len(rows) - 1)
            self.accounted.update(self.source_line(first + i + 1) for i in range(len(rows)))


def _elements(node: nodes.Element) -> list[nodes.Element]:
    return [
        c for c in node.children if isinstance(c, nodes.Element) and not isinstance(c, nodes.system_message)
    ]


def _joined(blocks: list[Block]) -> list[Block]:
    """Text on adjoining lines made one paragraph, then what is really columns made a table."""
    joined: list[Block] = []
    for block in blocks:
        before = joined[-1] if joined else None
        text = block.blocks[0] if isinstance(block, Quote) and block.blocks else block
        if isinstance(before, Paragraph) and isinstance(text, Paragraph) and before.run.adjoins(text.run):
            before.run = before.run.joined(text.run, indent="  " if isinstance(block, Quote) else "")
            joined.extend([Quote(block.blocks[1:])] if isinstance(block, Quote) and block.blocks[1:] else [])
        else:
            joined.append(block)
    return [_as_columns(block) if isinstance(block, Paragraph) else block for block in joined]


def _hanging(blocks: list[Block]) -> list[Block]:
    """The blocks of a list entry, with a first line that hangs out joined to what hangs below it."""
    first = blocks[0] if blocks else None
    if not isinstance(first, Listing) or not first.definitions or len(first.entries) != 1:
        return blocks
    return [*_as_paragraph(first.entries[0]), *blocks[1:]]


def _definitions(entries: list[Entry]) -> Iterator[Block]:
    """A list of definitions, less what is text with a hanging first line: nobody defines a whole sentence."""
    for is_text, group in groupby(entries, key=_begins_a_sentence):
        if is_text:
            yield from (block for entry in group for block in _as_paragraph(entry))
        else:
            yield Listing([*group], definitions=True)


def _begins_a_sentence(entry: Entry) -> bool:
    term = entry.term.plain.rstrip() if entry.term else ""
    return not term.endswith(":") and len(term.split()) > LONGEST_TERM


def _as_paragraph(entry: Entry) -> list[Block]:
    """Term and text as one paragraph where the one goes on in the other."""
    if entry.term is None:
        return entry.blocks
    text = entry.blocks[0] if entry.blocks else None
    if isinstance(text, Paragraph) and entry.term.adjoins(text.run):
        return [Paragraph(entry.term.joined(text.run)), *entry.blocks[1:]]
    return [Paragraph(entry.term), *entry.blocks]


def _as_columns(paragraph: Paragraph) -> Paragraph | Table:
    """A table, if the lines are two columns: a word, a gap, text; indented lines go on with the text."""
    if not COLUMNS.match(paragraph.run.raw):
        return paragraph
    groups: list[list[Run]] = []
    for row in paragraph.run.rows():
        if row.raw[:1].isspace() and groups:
            groups[-1].append(row)
        else:
            groups.append([row])
    gaps = [COLUMNS.match(group[0].raw) for group in groups]
    if len(groups) < 2 or not all(gaps):
        return paragraph
    rows = []
    for group, gap in zip(groups, gaps, strict=True):
        first = group[0]
        assert gap is not None
        text = first.after(gap.end())
        for more in group[1:]:
            text = text.joined(more)
        rows.append(Row([[Paragraph(first.until(gap.end(1)))], [Paragraph(text)]]))
    return Table(rows)


def _listed_rows(blocks: list[Block]) -> Iterator[Block]:
    """A table that was written as a list of lists."""
    for block in blocks:
        if isinstance(block, Listing) and all(_is_row(entry) for entry in block.entries):
            yield Table([Row([cell.blocks for cell in _cells(entry)]) for entry in block.entries])
        else:
            yield block


def _is_row(entry: Entry) -> bool:
    return len(entry.blocks) == 1 and isinstance(entry.blocks[0], Listing)


def _cells(entry: Entry) -> list[Entry]:
    return cast(Listing, entry.blocks[0]).entries


def _with_lost_lines(blocks: list[Block], source_lines: list[str], known: set[int]) -> list[Block]:
    """Lines with words that no node accounts for, put back as paragraphs of the section they stand in."""
    lost = _plain_paragraphs(source_lines, known)
    whole: list[Block] = []
    for block in blocks:
        if isinstance(block, Heading):
            while lost and lost[0].run.lines[0] < block.line:
                whole.append(lost.pop(0))
        whole.append(block)
    return [*whole, *lost]


def _plain_paragraphs(source_lines: list[str], known: set[int]) -> list[Paragraph]:
    """Each stretch of adjoining lines with words in them, those of `known` and markup left out."""
    paragraphs: list[Paragraph] = []
    for number, line in enumerate(source_lines, 1):
        if number in known or not WORD.search(line) or EXPLICIT_MARKUP.match(line):
            continue
        run = Run.of(line.strip(), (number,))
        if paragraphs and paragraphs[-1].run.adjoins(run):
            paragraphs[-1].run = paragraphs[-1].run.joined(run)
        else:
            paragraphs.append(Paragraph(run))
    return paragraphs
