"""What became of a sentence from release to release, as far as spec and documents at hand tell.

======== ==============================================================================================
same     the release's document has the same words
reworded it has the words of a statement that this one replaced
former   no document at hand, but the spec says that the release had former words of it
absent   the release's document has neither
proposed a patch that was never merged had other words for it
======== ==============================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from mmuspec.document import Document
from mmuspec.spec import Obsolete, SpecStatement
from mmuspec.version import version_key


class Fate(StrEnum):
    """See the table at the head of the module."""

    SAME = "same"
    REWORDED = "reworded"
    FORMER = "former"
    ABSENT = "absent"
    PROPOSED = "proposed"


@dataclass(frozen=True, slots=True)
class Edition:
    """The document of one release: the words of its statements by their digests."""

    release: str
    words: Mapping[str, str]

    @classmethod
    def of(cls, release: str, document: Document) -> Edition:
        """What a document says, as a release's."""
        return cls(release, {statement.digest: statement.text for statement in document.statements})


@dataclass(frozen=True, slots=True)
class Step:
    """How one release had it; `where` names the release, or the patch. `other` is the id that stands for the other
    words, `text` those words if at hand."""

    where: str
    fate: Fate
    other: str = ""
    text: str = ""


def history(
    statement: SpecStatement, formers: Sequence[Obsolete], editions: Sequence[Edition]
) -> tuple[Step, ...]:
    """Oldest release first, then what was only proposed. `formers` are what this statement replaced."""
    at_hand = {edition.release: edition for edition in editions}
    told = {old.release for old in formers if old.release}
    releases = sorted({*at_hand, *told}, key=version_key)
    steps = [_step(release, statement, formers, at_hand.get(release)) for release in releases]
    return (*steps, *_proposed(formers))


def _step(
    release: str, statement: SpecStatement, formers: Sequence[Obsolete], edition: Edition | None
) -> Step:
    if edition is None:
        old = next(old for old in formers if old.release == release)
        return Step(release, Fate.FORMER, old.statement.id)
    if statement.digest in edition.words:
        return Step(release, Fate.SAME)
    for old in formers:
        if old.statement.digest in edition.words:
            return Step(release, Fate.REWORDED, old.statement.id, edition.words[old.statement.digest])
    return Step(release, Fate.ABSENT)


def _proposed(formers: Sequence[Obsolete]) -> Iterator[Step]:
    for old in formers:
        if old.proposed:
            yield Step(old.proposed, Fate.PROPOSED, old.statement.id)
