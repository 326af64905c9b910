"""A sentence that contradicts itself, found without knowing what it speaks of.

===========  ===============================================================  =============================
a sentence   such as                                                          contradicts itself, as
===========  ===============================================================  =============================
contrasts    "from 3-wide trays (X.W=1) to 2-wide trays (X.W=1)"              the same setting is said of two
                                                                              different counts of one unit
alternates   "1 if it is full, 1 if it is empty"                              the same value stands for both
                                                                              of two alternatives
asserts      "A.B=1 (so A.B=0)"                                               two values of one setting hold
                                                                              without an alternative between
===========  ===============================================================  =============================
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

QUANTITY = re.compile(r"\b(?P<count>\d+)[- ](?P<unit>[A-Za-z]{3,})s?\b")
SETTING = re.compile(
    r"(?P<name>[A-Za-z_][\w.]*\w)\s*(?:==?|is)\s*'?(?P<value>0x[0-9a-fA-F]+|[01]|\d+)'?(?![\w.-])"
)
ALTERNATIVE = re.compile(r"'?\b(?P<value>\d+)\b'?\s+(?:if|when)\s+(?P<case>[^,;.]+)", re.IGNORECASE)
OR = re.compile(
    r"\b(?:or|if|else|otherwise|whether|unless|when|while|but|until|before|after|then|from|to|becomes?|"
    r"changes?|cleared|instead|versus|vs|not|never|except|different|differs?)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Said:
    """A setting, and the count that stands nearest before it."""

    name: str
    value: str
    count: str
    unit: str
    start: int
    end: int


def contradictions(sentence: str) -> Iterator[str]:
    """What is wrong with the sentence, in words; nothing if no rule applies."""
    said = list(_said(sentence))
    yield from _contrasts(said)
    yield from _alternates(sentence)
    yield from _asserts(sentence, said)


def _said(sentence: str) -> Iterator[_Said]:
    quantities = list(QUANTITY.finditer(sentence))
    for setting in SETTING.finditer(sentence):
        before = [quantity for quantity in quantities if quantity.end() <= setting.start()]
        near = before[-1] if before else None
        yield _Said(
            setting["name"], setting["value"],
            near["count"] if near else "", _singular(near["unit"]) if near else "",
            setting.start(), setting.end(),
        )  # fmt: skip


def _contrasts(said: list[_Said]) -> Iterator[str]:
    for one, other in combinations(said, 2):
        same_setting = (one.name.lower(), one.value) == (other.name.lower(), other.value)
        if same_setting and one.unit and one.unit == other.unit and one.count != other.count:
            yield (
                f"says {one.name}={one.value} both of {one.count}-{one.unit} and of {other.count}-{other.unit}: "
                "one setting cannot stand for two that differ"
            )


def _alternates(sentence: str) -> Iterator[str]:
    for one, other in combinations(ALTERNATIVE.finditer(sentence), 2):
        if one["value"] == other["value"] and one["case"].strip().lower() != other["case"].strip().lower():
            yield (
                f"gives the value {one['value']} both if {one['case'].strip()} and if {other['case'].strip()}: "
                "alternatives that do not differ"
            )


def _asserts(sentence: str, said: list[_Said]) -> Iterator[str]:
    for one, other in combinations(said, 2):
        differ = one.name.lower() == other.name.lower() and one.value != other.value
        if differ and not one.count and not other.count and not OR.search(sentence):
            yield f"says {one.name}={one.value} and {other.name}={other.value} at once"


def _singular(unit: str) -> str:
    return unit.lower().removesuffix("s")
