"""All that is known of one statement: the spec's word on it, what a run showed, its text where at hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mmuspec.report.families import Family, Sighting, Trial, families, sightings, trials
from mmuspec.report.pictures import Picture
from mmuspec.results import Evidence, Proof, StatementResult, Test
from mmuspec.spec import Mmu, Since, SpecItem, SpecStatement, Verdict
from mmuspec.status import Status, status_of


@dataclass(frozen=True, slots=True)
class Dossier:
    """One statement. `anchor` is its id in a form that a page can link to; `text` is None if not at hand.

    `kernels` has the verdict for each kernel, where versions differ. `status` follows from the spec's verdict
    of today and the outcomes of the run, whatever the verdict was when the tests ran.
    """

    id: str
    anchor: str
    item: str
    section: str
    line: int
    end_line: int
    text: str | None
    claim: str | None
    verdict: Verdict | None
    kernels: tuple[tuple[str, Verdict | None], ...]
    why: str | None
    mmu: tuple[Mmu, ...]
    since: Since | None
    status: Status
    tests: tuple[Test, ...]
    violations: tuple[Proof, ...]
    evidence: tuple[Evidence, ...]
    pictures: tuple[Picture, ...] = ()

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Its tests, parametrized ones told as one."""
        return trials(self.tests)

    @property
    def deaths(self) -> tuple[tuple[str, tuple[Family, ...]], ...]:
        """Its violations by name, and the tests that each was killed by."""
        return tuple((proof.name, families(proof.killed_by)) for proof in self.violations)

    @property
    def sightings(self) -> tuple[Sighting, ...]:
        """Its evidence, by tier and test."""
        return sightings(self.evidence)

    @property
    def result(self) -> StatementResult:
        """The part of it that the results schema has."""
        return StatementResult(
            self.id,
            self.line,
            self.section,
            tuple(mmu.value for mmu in self.mmu),
            self.verdict and self.verdict.value,
            self.status,
            self.tests,
            self.violations,
            self.evidence,
        )


def dossier(
    item: SpecItem,
    statement: SpecStatement,
    shown: StatementResult | None,
    text: str | None,
    kernels: Iterable[str],
    anchor: str,
    pictures: tuple[Picture, ...] = (),
) -> Dossier:
    """Put together what the spec says, what the run has `shown`, and the `text`; None is nothing known."""
    curated = statement.curated
    tests = shown.tests if shown else ()
    violations = shown.violations if shown else ()
    outcomes = [(test.outcome, test.refutes) for test in tests]
    return Dossier(
        id=statement.id,
        anchor=anchor,
        item=item.id,
        section=item.section,
        line=statement.line,
        end_line=statement.end_line,
        text=text,
        claim=curated.claim,
        verdict=curated.verdict,
        kernels=tuple((k, statement.verdict_for(k)) for k in kernels) if curated.kernels else (),
        why=curated.why,
        mmu=curated.mmu,
        since=curated.since,
        status=status_of(curated.verdict, outcomes, any(proof.killed_by for proof in violations)),
        tests=tests,
        violations=violations,
        evidence=shown.evidence if shown else (),
        pictures=pictures,
    )


def totals(dossiers: Iterable[Dossier]) -> Mapping[Status, int]:
    """How many have each status; every status is there."""
    counted = Counter(each.status for each in dossiers)
    return {status: counted[status] for status in Status}
