"""How each status is told apart without colour: a sign, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mmuspec.status import Status


@dataclass(frozen=True, slots=True)
class Mark:
    """`sign` is one character that system fonts have; `meaning` completes "a statement that ..."."""

    sign: str
    meaning: str


MARKS: Mapping[Status, Mark] = {
    Status.PROVEN: Mark("✓", "has a passing test, and a violation that makes one of its tests fail"),
    Status.TESTED: Mark("◐", "has a passing test, but nothing shows yet that the test can fail"),
    Status.REFUTED: Mark("✗", "is stale or wrong, and a test with teeth shows it"),
    Status.FAILING: Mark("▲", "has a test that fails"),
    Status.WAIVED: Mark("–", "cannot be tested, and the reason is given"),
    Status.UNCOVERED: Mark("○", "has no passing test"),
}
