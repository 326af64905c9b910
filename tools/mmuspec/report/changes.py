"""What changed since an earlier report, statement by statement.

A change has every facet that differs; a statement that only one of the two reports has is new, or gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mmuspec.results import Results, StatementResult

TIERS = ("model", "oracle", "live")


@dataclass(frozen=True, slots=True)
class Facet:
    """One thing that differs: what it is, and what it was and is (empty: nothing)."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Change:
    """A statement that is not as it was. `kind` is ``new``, ``gone`` or ``changed``; `status` is the one it has,
    or had."""

    id: str
    kind: str
    status: str
    facets: tuple[Facet, ...] = ()


def changes(before: Results, after: Results) -> tuple[Change, ...]:
    """In the order of the new report, what is gone at the end."""
    old = {statement.id: statement for statement in before.statements}
    new = {statement.id: statement for statement in after.statements}
    found = [_change(old.get(each.id), each) for each in after.statements]
    gone = [Change(each.id, "gone", each.status) for each in before.statements if each.id not in new]
    return (*(each for each in found if each), *gone)


def tiers_of(statement: StatementResult) -> Sequence[str]:
    """The tiers its evidence is of, the weakest first."""
    tiers = {each.tier for each in statement.evidence}
    return [*(tier for tier in TIERS if tier in tiers), *sorted(tiers - {*TIERS})]


def _change(old: StatementResult | None, new: StatementResult) -> Change | None:
    if old is None:
        return Change(new.id, "new", new.status)
    facets = tuple(_facets(old, new))
    return Change(new.id, "changed", new.status, facets) if facets else None


def _facets(old: StatementResult, new: StatementResult) -> Iterator[Facet]:
    for name, before, after in (
        ("status", old.status, new.status),
        ("verdict", old.verdict or "", new.verdict or ""),
        ("evidence", ", ".join(tiers_of(old)), ", ".join(tiers_of(new))),
    ):
        if before != after:
            yield Facet(name, before, after)
    if old.digest and new.digest and old.digest != new.digest:
        yield Facet("words", "other words", "these words")
