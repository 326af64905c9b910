"""What a review says: findings, and what there is to say of a patch and of a series. Plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from mmuspec.results import Test
from mmuspec.review.diffs import DiffLine
from mmuspec.review.fields import FieldChanges
from mmuspec.review.patching import Fit, Misfit
from mmuspec.review.series import Missing


class Level(StrEnum):
    """How a finding is to be taken."""

    WARNING = "WARNING"
    NOTE = "NOTE"


class Topic(StrEnum):
    """What a finding is about; the values stand in the JSON."""

    FIELD = "field"
    ADDED = "added"
    REMOVED = "removed"
    REWORDED = "reworded"
    MOVED = "moved"
    KNOWN = "known"
    NAME = "name"
    FIGURE = "figure"
    CONTRADICTION = "contradiction"
    REFERENCE = "reference"
    TWICE = "described-twice"
    OBJECTION = "objection"
    MARKUP = "markup"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to say, about the lines `quote` of the diff.

    `verdicts` are (kernel, verdict) of a known statement, the kernel empty for all others; `why` is what the
    spec says to them. The outcome of a test is empty where no run is at hand.
    """

    topic: Topic
    level: Level
    message: str
    quote: tuple[DiffLine, ...] = ()
    statement: str = ""
    text: str = ""
    verdicts: tuple[tuple[str, str], ...] = ()
    why: str = ""
    tests: tuple[Test, ...] = ()
    place: tuple[str, int] | None = None

    @property
    def line(self) -> int | None:
        """The line of the input that the finding stands at: the last that it quotes."""
        return self.quote[-1].at.number if self.quote else None


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the document is decided: statements in all, with a claim, with a verdict, with a proof.

    `proven` counts what tests with teeth decided, either way; it is None where no results are at hand.
    """

    statements: int
    claimed: int
    decided: int
    proven: int | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """A reworded statement; `words` is the word diff, each with ``-``, ``+`` or a space."""

    statement: str
    kind: str
    before: str
    after: str
    words: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Changes:
    """What happens to statements and fields: ids, in the order of the document."""

    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    changed: list[Change] = field(default_factory=list)
    fields: FieldChanges = field(default_factory=FieldChanges)


@dataclass(slots=True)
class PatchReview:
    """Everything to say of one patch."""

    path: str
    line: int
    subject: str
    author: str
    number: int | None
    total: int | None
    fits: tuple[Fit, ...] = ()
    misfits: tuple[Misfit, ...] = ()
    elsewhere: list[str] = field(default_factory=list)
    problems: list[tuple[int, str]] = field(default_factory=list)
    changes: Changes = field(default_factory=Changes)
    findings: list[Finding] = field(default_factory=list)
    quotes: dict[str, tuple[DiffLine, ...]] = field(default_factory=dict)
    """The lines of the diff that show each statement after it, by id."""
    coverage: tuple[Coverage, Coverage] | None = None

    @property
    def touches(self) -> bool:
        """Whether there is a diff for the document in it, applied or not."""
        return bool(self.fits or self.misfits or self.problems)


@dataclass(slots=True)
class SeriesReview:
    """Everything to say of the input. `complaints` are (file, line, text) of what could not be reviewed."""

    base: str
    release: str
    patches: list[PatchReview] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    complaints: list[tuple[str, int | None, str]] = field(default_factory=list)
    changes: Changes = field(default_factory=Changes)
    coverage: tuple[Coverage, Coverage] | None = None
    todo: list[str] = field(default_factory=list)
    stub: str = ""

    @property
    def has_findings(self) -> bool:
        """Whether there is anything that an author or a reviewer should look at."""
        return any(patch.findings for patch in self.patches)
