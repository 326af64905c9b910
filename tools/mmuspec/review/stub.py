"""What is left to do for new statements: the list, and entries for `spec/` ready to paste."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mmuspec.spec import Curated, Since, SpecItem
from mmuspec.specfiles import items_as_yaml

if TYPE_CHECKING:
    from mmuspec.review.examine import State
    from mmuspec.review.knowledge import Knowledge


def stub_of(first: State, last: State, knowledge: Knowledge) -> tuple[list[str], str]:
    """Ids of the new statements that nobody has made a claim of, and their items as YAML."""
    known = {statement.digest for statement in first.document.statements}
    items: list[SpecItem] = []
    for item in last.spec.items:
        new = tuple(
            replace(statement, curated=Curated(since=Since.NEW))
            for statement in item.statements
            if statement.digest not in known and not _has_claim(statement.digest, knowledge)
        )
        if new:
            items.append(replace(item, statements=new))
    ids = [statement.id for item in items for statement in item.statements]
    return ids, items_as_yaml(items) if items else ""


def _has_claim(digest: str, knowledge: Knowledge) -> bool:
    statement = knowledge.of(digest)
    return statement is not None and statement.curated.claim is not None
