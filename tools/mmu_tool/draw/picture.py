"""A picture before it has places and shapes: cards in columns, rows in cards, links from rows to cards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .match import Change


@dataclass(frozen=True)
class Link:
    """An entry or a root that points to a card. ``back``: the page there names the entry as its parent;
    None where nothing is to point back."""

    target: str
    back: bool | None = None


@dataclass(frozen=True)
class Row:
    """A line in a card; ``strong`` is to be seen first, ``wrong`` cannot be in a sound state."""

    text: str
    change: Change = Change.NONE
    links: tuple[Link, ...] = ()
    strong: bool = False
    wrong: bool = False


@dataclass(frozen=True)
class Card:
    """A vCPU, a shadow page, several like pages folded into one (``pages`` says how many), or a memory slot.

    ``words`` never change; ``rows`` stand below them in the order given.
    """

    key: str
    column: int
    title: str
    words: tuple[str, ...]
    rows: tuple[Row, ...]
    change: Change = Change.NONE
    pages: int = 1


@dataclass(frozen=True)
class Picture:
    """``headings`` has the columns by number, from the left."""

    title: str
    facts: tuple[Row, ...]
    headings: Mapping[int, str]
    cards: tuple[Card, ...]
    compared_with: str | None = None
