"""Ids from words: short, readable, and unique."""

from __future__ import annotations

import re
import unicodedata

WORDS_IN_A_SLUG = 5
STOP_WORDS = frozenset(
    (
        "a an the of to in into is are be been being and or for by on with that this these those it its "
        "as at from we which will has have had can could may might would should do does done was were "
        "there their them they so such also than then if when"
    ).split()
)
WORD = re.compile(r"[^\W_]+(?:[._][^\W_]+)*")
NOT_IN_ID = re.compile(r"[^a-z0-9_.]+")


def section_slug(title: str) -> str:
    """All the words of a heading: ``Emulating cr0.wp`` is ``emulating-cr0.wp``."""
    return _slug(title.lower().split()) or "untitled"


def text_slug(text: str, known: str = "") -> str:
    """The first telling words of a text; words that stand in `known` already tell nothing."""
    told = set(WORD.findall(known.lower())) | STOP_WORDS
    words = [word for word in WORD.findall(text.lower()) if word not in told]
    return _slug(words[:WORDS_IN_A_SLUG]) or _slug(WORD.findall(text.lower())[:WORDS_IN_A_SLUG]) or "text"


def unique(wanted: str, taken: set[str]) -> str:
    """`wanted`, or `wanted-2`, `wanted-3` ... if it is taken. What is returned is taken from then on."""
    given, number = wanted, 1
    while given in taken:
        number += 1
        given = f"{wanted}-{number}"
    taken.add(given)
    return given


def _slug(words: list[str]) -> str:
    ascii_only = unicodedata.normalize("NFKD", " ".join(words)).encode("ascii", "ignore").decode()
    return NOT_IN_ID.sub("-", ascii_only).strip("-.")
