"""How each status is told apart without colour: a sign, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mmuspec.report.dossier import Drift
from mmuspec.report.history import Fate
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

FATES: Mapping[Fate, str] = {
    Fate.SAME: "the same words",
    Fate.REWORDED: "other words",
    Fate.FORMER: "other words, not at hand",
    Fate.ABSENT: "not there",
    Fate.PROPOSED: "proposed in other words, in no document",
}

DRIFTS: Mapping[Drift, str] = {
    Drift.UNTESTED_WORDS: "untested words",
    Drift.REWORDED: "reworded",
}
DRIFT_TELLS: Mapping[Drift, str] = {
    Drift.UNTESTED_WORDS: (
        "The words changed since the tests ran. What the tests showed is listed, and counts for nothing until they run again."
    ),
    Drift.REWORDED: (
        "This document has other words here than the one that the spec was made from. What is known is known of those."
    ),
}
