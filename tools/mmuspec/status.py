"""What is known of a statement, from its verdict and what its tests did.

The policy, first row that applies. Only a test that passed counts; skipped and expected failures never do.

=========  ======================================================================================
failing    one of its tests failed
waived     its verdict is `untestable`; the spec has the reason
refuted    its verdict is `stale` or `wrong`, a refuting test passed and a violation made it fail
proven     any other verdict, a supporting test passed and a violation made one fail
tested     a test passed, but nothing shows yet that it can fail
uncovered  none of these
=========  ======================================================================================
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

from mmuspec.spec import REFUTED, Verdict


class Status(StrEnum):
    """In the order in which reports list them."""

    PROVEN = "proven"
    TESTED = "tested"
    REFUTED = "refuted"
    FAILING = "failing"
    WAIVED = "waived"
    UNCOVERED = "uncovered"


def status_of(verdict: Verdict | None, tests: Collection[tuple[str, bool]], killed: bool) -> Status:
    """`tests` are (outcome, refutes); `killed`: a violation made one of them fail with an assertion."""
    if any(outcome == "failed" for outcome, _ in tests):
        return Status.FAILING
    if verdict is Verdict.UNTESTABLE:
        return Status.WAIVED
    refuting = any(outcome == "passed" and refutes for outcome, refutes in tests)
    supporting = any(outcome == "passed" and not refutes for outcome, refutes in tests)
    if verdict in REFUTED and refuting and killed:
        return Status.REFUTED
    if verdict not in REFUTED and supporting and killed:
        return Status.PROVEN
    return Status.TESTED if refuting or supporting else Status.UNCOVERED
