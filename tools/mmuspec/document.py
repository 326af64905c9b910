"""What a document states: items and their statements, as the extraction finds them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mmuspec.outline import Outline, Run


class Kind(StrEnum):
    """What sort of thing an item is."""

    FIELD = "field"
    REQUIREMENT = "requirement"
    ACRONYM = "acronym"
    PARAGRAPH = "paragraph"
    BULLET = "bullet"
    TABLE_ROW = "table-row"
    MAPPING = "mapping"


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a statement: characters `start` to `stop` of a run's raw text."""

    run: Run
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Statement:
    """One sentence, or one line of a list or table.

    `line` and `end_line` count from 1 and include the last; `text` is folded and has its markup, `digest` is
    that of the words alone.
    """

    id: str
    line: int
    end_line: int
    digest: str
    text: str
    pieces: tuple[Piece, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that the document describes. `names` are the field's names; empty for all other kinds."""

    id: str
    kind: Kind
    names: tuple[str, ...]
    section: str
    line: int
    end_line: int
    statements: tuple[Statement, ...]

    @property
    def text(self) -> str:
        """All the words of the item, folded."""
        return " ".join(statement.text for statement in self.statements)


@dataclass(frozen=True, slots=True)
class Source:
    """Which document: where it lies in the kernel tree (or on disk), and which revision it is.

    `release` is the kernel release that it was asked for by, or empty; `lines` is the number of its lines.
    """

    path: str
    title: str
    sha256: str
    lines: int
    release: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """A revision of the document, taken apart."""

    source: Source
    items: tuple[Item, ...]
    outline: Outline

    @property
    def statements(self) -> tuple[Statement, ...]:
        """Every statement, in the order of the document."""
        return tuple(statement for item in self.items for statement in item.statements)

    @property
    def fields(self) -> tuple[Item, ...]:
        """The items that describe a field."""
        return tuple(item for item in self.items if item.kind is Kind.FIELD)
