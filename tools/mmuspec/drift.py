"""What differs between a spec and a document, or between two documents, statement by statement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from mmuspec.document import Document
from mmuspec.merge import Merge, WordsOf, bare, merge
from mmuspec.spec import Spec
from mmuspec.wording import BLOCKING, change_class


@dataclass(frozen=True, slots=True)
class Changed:
    """A statement whose words or markup changed.

    `kind` is a class of `mmuspec.wording.ORDER`, or None where the old words are not at hand (`before` is
    None then too): nobody can tell how they changed.
    """

    id: str
    kind: str | None
    before: str | None
    after: str

    @property
    def blocks(self) -> bool:
        """Whether somebody has to look: everything but markup, and whatever cannot be told."""
        return self.kind is None or self.kind in BLOCKING


@dataclass(frozen=True, slots=True)
class Drift:
    """Ids in the order of the document that they stand in (the old one for `removed`)."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    changed: tuple[Changed, ...] = ()
    wordless: tuple[str, ...] = ()
    """Ids among `removed` of which one may be one of `added` reworded: the old words are not at hand."""

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.moved or self.changed)

    @property
    def blocks(self) -> bool:
        """Whether there is anything but changed markup."""
        return bool(self.added or self.removed or self.moved or any(c.blocks for c in self.changed))

    def as_json(self) -> dict[str, Any]:
        """The published schema."""
        changed = [
            {"class" if key == "kind" else key: value for key, value in asdict(c).items()}
            for c in self.changed
        ]
        return {
            "added": list(self.added),
            "removed": list(self.removed),
            "moved": list(self.moved),
            "changed": changed,
        }

    def lines(self) -> Iterator[str]:
        """For a person: one line a statement, the words of a changed one below it."""
        for word, ids in (("added", self.added), ("removed", self.removed), ("moved", self.moved)):
            yield from (f"{word:<8} {each}" for each in ids)
        for change in self.changed:
            yield f"changed  {change.id} ({change.kind or 'the old words are not at hand'})"
            if change.before is not None:
                yield f"  - {change.before}"
            yield f"  + {change.after}"


def of_spec(spec: Spec, document: Document, words_of: WordsOf, old_texts: Mapping[str, str]) -> Drift:
    """How the document differs from the one that `spec` was made from.

    `old_texts` are that one's statements by digest, as far as they are at hand, markup included.
    """
    merged = merge(spec, document, words_of)
    drift = _drift(merged, document, old_texts)
    if document.source.sha256 == spec.source.sha256:
        drift = replace(drift, moved=(*drift.moved, *_misplaced(spec, merged.spec)))
    return drift


def of_documents(old: Document, new: Document, known: Spec | None = None) -> Drift:
    """How two documents differ. Where `known` knows a statement it has the id it has there."""
    return between(named(old, known), old, new)[0]


def named(document: Document, known: Spec | None) -> Spec:
    """A spec of the document in which what `known` knows has the ids and the curated words it has there."""
    texts = {statement.digest: statement.text for statement in document.statements}
    return (
        merge(known, document, texts.get).spec if known and _same_title(known, document) else bare(document)
    )


def between(spec: Spec, old: Document, new: Document) -> tuple[Drift, Spec]:
    """How `new` differs from `old`, which `spec` is the spec of, and the spec brought up to `new`."""
    texts = {statement.digest: statement.text for statement in old.statements}
    merged = merge(spec, new, texts.get)
    return _drift(merged, new, texts), merged.spec


def with_known_ids(document: Document, known: Spec, words_of: WordsOf) -> Document:
    """The document with the ids that `known` has for its statements and items."""
    if not _same_title(known, document):
        return document
    spec = merge(known, document, words_of).spec
    items = tuple(
        replace(
            item,
            id=spec_item.id,
            statements=tuple(
                replace(s, id=t.id) for s, t in zip(item.statements, spec_item.statements, strict=True)
            ),
        )
        for item, spec_item in zip(document.items, spec.items, strict=True)
    )
    return replace(document, items=items)


def _same_title(spec: Spec, document: Document) -> bool:
    return spec.source.title == document.source.title


def _drift(merged: Merge, document: Document, old_texts: Mapping[str, str]) -> Drift:
    changed = [
        Changed(c.id, None if c.before is None else change_class(c.before, c.after), c.before, c.after)
        for c in merged.changed
    ]
    for known, statement in zip(merged.spec.statements(), document.statements, strict=True):
        before = old_texts.get(statement.digest)
        if before is not None and before != statement.text and known.id not in merged.added:
            kind = change_class(before, statement.text, same_words=True)
            changed.append(Changed(known.id, kind, before, statement.text))
    return Drift(
        tuple(merged.added),
        tuple(merged.removed),
        tuple(merged.moved),
        tuple(changed),
        tuple(merged.wordless),
    )


def _misplaced(spec: Spec, merged: Spec) -> tuple[str, ...]:
    """Statements whose place in the spec is not their place in the very document it names."""
    places = {s.id: (s.line, s.end_line) for s in spec.statements()}
    return tuple(
        s.id for s in merged.statements() if places.get(s.id, (s.line, s.end_line)) != (s.line, s.end_line)
    )
