"""Short documents and their specs, for tests."""

from __future__ import annotations

from dataclasses import replace

from mmuspec.document import Document
from mmuspec.extract import extract
from mmuspec.merge import Merge, bare, merge
from mmuspec.spec import Curated, Spec, SpecStatement, Verdict


def document(source: str, release: str = "1") -> Document:
    return extract(source, "gadget.rst", release)[0]


def curated(spec: Spec) -> Spec:
    """Every statement with a claim of its own, as if people had been at it."""

    def said(statement: SpecStatement) -> SpecStatement:
        return replace(statement, curated=Curated(claim=f"claim of {statement.id}", verdict=Verdict.HOLDS))

    return replace(
        spec,
        items=tuple(replace(item, statements=tuple(map(said, item.statements))) for item in spec.items),
    )


def spec_of(source: str, release: str = "1") -> Spec:
    return curated(bare(document(source, release)))


def merged(spec: Spec, source: str, *known: str, release: str = "2") -> Merge:
    """`spec` brought up to `source`; the words of `known` documents are at hand."""
    words = {s.digest: s.text for text in known for s in document(text).statements}
    return merge(spec, document(source, release), words.get)


def claims(spec: Spec) -> dict[str, str | None]:
    """Every claim there is, by id, obsolete ones too."""
    return {s.id: s.curated.claim for s in spec.everything()}


def ids(spec: Spec) -> list[str]:
    return [s.id for s in spec.statements()]
