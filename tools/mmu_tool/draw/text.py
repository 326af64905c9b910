"""A picture in plain words, for who cannot see it; and what makes text fit for either form."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Final

from .match import Change
from .picture import Card, Picture

LONGEST: Final = 52
"""Characters of a row; a longer one ends in ``…``. Only what no kernel has gets that long."""
HIDDEN: Final = frozenset({"Cc", "Cf", "Cn", "Cs", "Zl", "Zp"})
"""Categories of characters that XML forbids, or that change how others show."""
CHANGES: Final = {Change.ADDED: "new", Change.REMOVED: "gone", Change.CHANGED: "changed"}


def clip(text: str, longest: int = LONGEST) -> str:
    """Text fit for one line: short enough, hidden characters replaced."""
    shown = "".join("�" if unicodedata.category(each) in HIDDEN else each for each in text[: longest + 1])
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def describe(picture: Picture) -> str:
    """What the picture shows, card by card."""
    return "\n".join(_lines(picture)) + "\n"


def _lines(picture: Picture) -> Iterator[str]:
    yield clip(picture.title, 100)
    yield "; ".join(clip(row.text) for row in picture.facts) + "."
    if picture.compared_with is not None:
        yield f"Compared with {clip(picture.compared_with) or 'the state before'}."
    column = None
    for card in picture.cards:
        if card.column != column:
            column = card.column
            yield f"{picture.headings[column]}:"
        yield from _card(card)


def _card(card: Card) -> Iterator[str]:
    change = f" ({CHANGES[card.change]})" if card.change in CHANGES else ""
    words = "; ".join([card.title + change, " ".join(card.words)] if card.words else [card.title + change])
    yield f"- {clip(words, 200)}"
    for row in card.rows:
        sign = f"{CHANGES[row.change]}: " if row.change in CHANGES else ""
        yield f"  - {sign}{clip(row.text)}{' (unsound)' if row.wrong else ''}"
