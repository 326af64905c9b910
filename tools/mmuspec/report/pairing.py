"""Which statement of the spec each statement of the document at hand is.

A statement is the spec's if its words are; `mmuspec.merge` decides which of several with the same words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mmuspec.document import Document
from mmuspec.merge import WordsOf, merge
from mmuspec.spec import Spec


@dataclass(frozen=True, slots=True)
class Pairing:
    """`statements`: the document's own id to the spec's; `fields`: the line of a field's term to the id of
    its item in the spec; `texts`: the spec's id to the words; `strangers`: ids of the document's statements
    that the spec does not have, `reworded` maps those to the spec's id that are other words for one of its statements."""

    statements: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[int, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    strangers: tuple[str, ...] = ()
    reworded: Mapping[str, str] = field(default_factory=dict)


def pair(spec: Spec, document: Document, words_of: WordsOf = lambda _digest: None) -> Pairing:
    """Match by words. Neither is changed. `words_of` has former words, by which rewording is recognised."""
    brought_up = merge(spec, document, words_of).spec
    words = {statement.id: statement.digest for statement in spec.statements()}
    same = {
        own.id: (known.id, own.text)
        for known, own in zip(brought_up.statements(), document.statements, strict=True)
        if words.get(known.id) == own.digest
    }
    others = {
        own.id: known.id
        for known, own in zip(brought_up.statements(), document.statements, strict=True)
        if own.id not in same and known.id in words
    }
    items = {item.id for item in spec.items}
    return Pairing(
        statements={own: known for own, (known, _) in same.items()},
        fields={item.line: item.id for item in brought_up.items if item.names and item.id in items},
        texts=dict(same.values()),
        strangers=tuple(own.id for own in document.statements if own.id not in same),
        reworded=others,
    )
