"""The spec: where each statement stands and what its words are, and what people say of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum

from mmuspec.document import Kind, Source


class Verdict(StrEnum):
    """What is known of a statement."""

    HOLDS = "holds"
    SCOPED = "scoped"
    STALE = "stale"
    WRONG = "wrong"
    UNTESTABLE = "untestable"


class Since(StrEnum):
    """Why somebody should look at a statement: it is new, or its words changed."""

    NEW = "new"
    CHANGED = "changed"


class Mmu(StrEnum):
    """What a statement speaks of."""

    HARDWARE = "hardware"
    SHADOW = "shadow"
    TDP = "tdp"


REFUTED = frozenset({Verdict.STALE, Verdict.WRONG})


@dataclass(frozen=True, slots=True)
class Curated:
    """What people own. The tool carries it along and never writes into it, but for `since`."""

    claim: str | None = None
    verdict: Verdict | None = None
    why: str | None = None
    mmu: tuple[Mmu, ...] = ()
    kernels: tuple[tuple[str, Verdict], ...] = ()
    since: Since | None = None


@dataclass(frozen=True, slots=True)
class SpecStatement:
    """A statement of the spec: the extraction's, without its text, and the curated part."""

    id: str
    line: int
    end_line: int
    digest: str
    curated: Curated = field(default_factory=Curated)

    def verdict_for(self, kernel: str) -> Verdict | None:
        """The verdict for one kernel: its own where versions differ, else the common one."""
        return dict(self.curated.kernels).get(kernel, self.curated.verdict)

    def curated_as(self, **changes: object) -> SpecStatement:
        """The same statement with some curated words replaced."""
        return replace(self, curated=replace(self.curated, **changes))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class SpecItem:
    """An item of the spec. Its id stays with its statements whatever becomes of its names."""

    id: str
    kind: Kind
    names: tuple[str, ...]
    section: str
    line: int
    end_line: int
    statements: tuple[SpecStatement, ...]


@dataclass(frozen=True, slots=True)
class Obsolete:
    """A statement that the document no longer has, with every curated word.

    `replaced_by` is the id of the statement whose former wording this is; empty if it was removed.
    `item` has no statements; it says what the statement was part of. `release` and `sha256` name the last
    document seen that had these words. One that no document ever had has neither, but `proposed`, which names
    the patch that would have brought it.
    """

    statement: SpecStatement
    item: SpecItem
    release: str
    sha256: str
    replaced_by: str = ""
    proposed: str = ""


@dataclass(frozen=True, slots=True)
class Spec:
    """All of it: the document it was made from, its items in order, and what is obsolete."""

    source: Source
    items: tuple[SpecItem, ...]
    obsolete: tuple[Obsolete, ...] = ()

    def statements(self) -> Iterator[SpecStatement]:
        """The statements of the document, in its order."""
        for item in self.items:
            yield from item.statements

    def everything(self) -> Iterator[SpecStatement]:
        """The statements of the document, then the obsolete ones."""
        yield from self.statements()
        for old in self.obsolete:
            yield old.statement

    def find(self, statement_id: str) -> SpecStatement | None:
        """The statement with this id, obsolete or not."""
        return next((s for s in self.everything() if s.id == statement_id), None)
