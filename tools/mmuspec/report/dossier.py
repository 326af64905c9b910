"""All that is known of one statement: the spec's word on it, what a run showed, its text where at hand.

Words, spec and run may be of different ages. What a run showed of a statement counts where its words are:

===============================================  ====================================================
the run saw                                      what it showed
===============================================  ====================================================
the statement with the spec's words              counts
other words, or nobody can tell which            is shown, counts for nothing; drift `UNTESTED_WORDS`
===============================================  ====================================================

The document at hand may have other words yet: then the drift is `REWORDED`, and what is known is known of the
spec's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from mmuspec.report.changes import tiers_of
from mmuspec.report.families import Family, Sighting, Trial, families, sightings, trials
from mmuspec.report.history import Step
from mmuspec.report.pictures import Picture
from mmuspec.report.recorded import Scene, is_recording, scenes
from mmuspec.results import Death, Evidence, Proof, StatementResult, Test
from mmuspec.spec import Mmu, Since, SpecItem, SpecStatement, Verdict
from mmuspec.status import Status, status_of


class Drift(StrEnum):
    """What is not of one age; see the table at the head of the module."""

    UNTESTED_WORDS = "untested words"
    REWORDED = "reworded"


@dataclass(frozen=True, slots=True)
class Killing:
    """One violation, the tests that noticed it, and by which assertions, told once for each test."""

    name: str
    killers: tuple[Family, ...]
    deaths: tuple[Death, ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """What a run showed of a statement, and whether it counts for the words that the spec has."""

    result: StatementResult
    counts: bool = True


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
    deaths: tuple[Death, ...] = ()
    digest: str = ""
    history: tuple[Step, ...] = ()
    drift: Drift | None = None
    pictures: tuple[Picture, ...] = ()

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Its tests, parametrized ones told as one."""
        return trials(self.tests)

    @property
    def killings(self) -> tuple[Killing, ...]:
        """Its violations, and what each was killed by."""
        return tuple(
            Killing(proof.name, families(proof.killed_by), self._deaths(proof.name))
            for proof in self.violations
        )

    def _deaths(self, violation: str) -> tuple[Death, ...]:
        by_test = {
            death.test.partition("[")[0]: death
            for death in reversed(self.deaths)
            if death.violation == violation
        }
        return tuple(sorted(by_test.values()))

    @property
    def sightings(self) -> tuple[Sighting, ...]:
        """Its evidence, by tier and test; what lies in recordings is in `scenes`."""
        return sightings(each for each in self.evidence if not is_recording(each))

    @property
    def scenes(self) -> tuple[Scene, ...]:
        """The moments of recorded scenarios that its evidence rests on."""
        return scenes(self.evidence)

    @property
    def tiers(self) -> tuple[str, ...]:
        """The tiers of its evidence, the weakest first."""
        return tuple(tiers_of(self.result))

    def tiers_on(self, kernel: str) -> tuple[str, ...]:
        """The tiers of the evidence that was seen on one kernel."""
        return tuple(tier for tier in self.tiers if f"{tier}:{kernel}" in self.seen)

    def verdict_for(self, kernel: str) -> Verdict | None:
        """The verdict for one kernel: its own where versions differ, else the common one."""
        return dict(self.kernels).get(kernel, self.verdict)

    @property
    def seen(self) -> tuple[str, ...]:
        """Each tier and kernel that its evidence has, as ``tier:kernel``."""
        return tuple(sorted({f"{each.tier}:{each.kernel}" for each in self.result.evidence}))

    @property
    def result(self) -> StatementResult:
        """The part of it that the results schema has: nothing that does not count."""
        counts = self.drift is not Drift.UNTESTED_WORDS
        return StatementResult(
            self.id,
            self.line,
            self.section,
            tuple(mmu.value for mmu in self.mmu),
            self.verdict and self.verdict.value,
            self.status,
            self.tests if counts else (),
            self.violations if counts else (),
            self.evidence if counts else (),
            self.deaths if counts else (),
            self.digest,
        )


def dossier(
    item: SpecItem,
    statement: SpecStatement,
    shown: Shown | None,
    text: str | None,
    kernels: Iterable[str],
    anchor: str,
    history: tuple[Step, ...] = (),
    *,
    reworded: bool = False,
    pictures: tuple[Picture, ...] = (),
) -> Dossier:
    """Put together what the spec says, what the run has `shown`, and the `text`; None is nothing known.

    `reworded`: the document at hand has other words, and `text` is the spec's, if those are at hand at all.
    """
    curated = statement.curated
    ran = shown.result if shown else None
    counted = shown.result if shown and shown.counts else None
    outcomes = [(test.outcome, test.refutes) for test in counted.tests] if counted else []
    killed = any(proof.killed_by for proof in counted.violations) if counted else False
    outrun = ran is not None and counted is None and bool(ran.tests)
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
        status=status_of(curated.verdict, outcomes, killed),
        tests=ran.tests if ran else (),
        violations=ran.violations if ran else (),
        evidence=ran.evidence if ran else (),
        deaths=ran.deaths if ran else (),
        digest=statement.digest,
        history=history,
        drift=Drift.REWORDED if reworded else Drift.UNTESTED_WORDS if outrun else None,
        pictures=pictures,
    )


def totals(dossiers: Iterable[Dossier]) -> Mapping[Status, int]:
    """How many have each status; every status is there."""
    counted = Counter(each.status for each in dossiers)
    return {status: counted[status] for status in Status}
