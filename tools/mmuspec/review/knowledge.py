"""What is known before a series is read: the spec, the last run, and the tests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from mmuspec.fetch.places import belongs
from mmuspec.results import Results, Test
from mmuspec.review.finding import Coverage, Finding, Level, Topic
from mmuspec.review.known_tests import known_tests
from mmuspec.spec import REFUTED, Spec, SpecStatement, Verdict
from mmuspec.status import Status
from mmuspec.version import version_key

DECIDED_BY_TESTS = frozenset({Status.PROVEN, Status.REFUTED})


@dataclass
class Knowledge:
    """`root` is the folder with the tests. A statement is known by its digest: by its words, white space aside."""

    spec: Spec | None
    results: Results | None
    root: Path
    _tests: dict[str, tuple[Test, ...]] = field(default_factory=dict)

    @cached_property
    def _by_digest(self) -> dict[str, SpecStatement]:
        """Of two with the same words the one that says more."""
        found: dict[str, SpecStatement] = {}
        for statement in self.spec.everything() if self.spec else ():
            known = found.get(statement.digest)
            if known is None or (known.curated.verdict is None and statement.curated.verdict is not None):
                found[statement.digest] = statement
        return found

    @cached_property
    def _statuses(self) -> dict[str, Status]:
        return {s.id: s.status for s in self.results.statements} if self.results else {}

    def of(self, digest: str) -> SpecStatement | None:
        """The statement that has just these words, in the document of the spec or among the obsolete ones."""
        return self._by_digest.get(digest)

    def learn_tests(self, ids: Iterable[str]) -> None:
        """Look for the tests of these statements, all at once."""
        new = set(ids) - self._tests.keys()
        if new:
            found = known_tests(new, self.root, self.results)
            self._tests |= {each: found.get(each, ()) for each in new}

    def tests(self, statement_id: str) -> tuple[Test, ...]:
        """The tests that name a statement."""
        self.learn_tests([statement_id])
        return self._tests[statement_id]

    def coverage(self, digests: Iterable[str]) -> Coverage:
        """How much of a document with these statements is decided."""
        statements = [self.of(digest) for digest in digests]
        curated = [s.curated for s in statements if s]
        proven = sum(self._statuses.get(s.id) in DECIDED_BY_TESTS for s in statements if s)
        return Coverage(
            len(statements),
            sum(each.claim is not None for each in curated),
            sum(each.verdict is not None for each in curated),
            proven if self.results else None,
        )

    def finding(self, digest: str, release: str) -> Finding | None:
        """What to say of a statement whose words are known to be untrue, or true in a narrower scope."""
        known = self.of(digest)
        if known is None:
            return None
        verdicts = verdicts_of(known)
        worst = {verdict for _, verdict in verdicts}
        if not worst & {*REFUTED, Verdict.SCOPED}:
            return None
        told = told_by_kernel(verdicts, release)
        own = next((v for kernel, v in verdicts if belongs(release, kernel)), known.curated.verdict)
        level = Level.WARNING if own in REFUTED or worst & REFUTED else Level.NOTE
        tests = tuple(test for test in self.tests(known.id) if test.refutes or not worst & REFUTED)
        return Finding(
            Topic.KNOWN,
            level,
            f"known statement {known.id}: {told}",
            statement=known.id,
            verdicts=tuple((kernel, verdict.value) for kernel, verdict in verdicts),
            why=known.curated.why or known.curated.claim or "",
            tests=tests,
        )


def verdicts_of(statement: SpecStatement) -> list[tuple[str, Verdict]]:
    """(kernel, verdict), the oldest kernel first; the common verdict, for all others, stands last."""
    curated = statement.curated
    own = sorted(curated.kernels, key=lambda each: version_key(each[0]))
    return [*own, *([("", curated.verdict)] if curated.verdict else [])]


def told_by_kernel(verdicts: Iterable[tuple[str, Verdict]], release: str) -> str:
    """``wrong on 6.1, holds on 6.12``; the kernel in question first."""
    verdicts = list(verdicts)
    named = [(kernel, verdict) for kernel, verdict in verdicts if kernel]
    if not named:
        return ", ".join(f"{verdict} on every kernel" for _, verdict in verdicts)
    named.sort(key=lambda each: not belongs(release, each[0]))
    return ", ".join(f"{verdict} on {kernel}" for kernel, verdict in named)
