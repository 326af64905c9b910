"""Documents, specs and runs to report on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mmuspec.document import Document
from mmuspec.extract import extract
from mmuspec.merge import bare, merge
from mmuspec.results import Evidence, Findings, Results, Test, compose
from mmuspec.spec import Curated, Mmu, Spec, Verdict
from tests.mmuspec.gadget import GADGET

HOLDS = Curated(claim="It has a level.", verdict=Verdict.HOLDS, mmu=(Mmu.SHADOW,))
WRONG = Curated(
    claim="No, it counts owners.",
    verdict=Verdict.WRONG,
    why="Since 5.19.",
    kernels=(("6.1", Verdict.HOLDS),),
)
WAIVED = Curated(verdict=Verdict.UNTESTABLE, why="An intention.")

T = "conformance/test_gadget.py::test_"


def document_of(text: str, release: str = "6.12") -> Document:
    return extract(text, "Documentation/gadget.rst", release)[0]


def gadget() -> Document:
    return document_of(GADGET)


def curated(spec: Spec, words: Mapping[str, Curated]) -> Spec:
    """`spec` with the curated words of some statements replaced; each has to be there."""
    assert set(words) <= {s.id for s in spec.statements()}
    return replace(
        spec,
        items=tuple(
            replace(
                item,
                statements=tuple(replace(s, curated=words.get(s.id, s.curated)) for s in item.statements),
            )
            for item in spec.items
        ),
    )


def statement_ids(spec: Spec) -> list[str]:
    return [statement.id for statement in spec.statements()]


def find(spec: Spec, item: str, number: int = 0) -> str:
    """The id of a statement of an item."""
    return next(each for each in spec.items if each.id == item).statements[number].id


def gadget_spec(document: Document) -> Spec:
    """One statement of each verdict that matters, and an obsolete one."""
    older = document_of(GADGET.replace("- a move", "- a move, which older slots did not survive"), "6.1")
    spec = merge(bare(older), document, lambda _digest: None).spec
    return curated(
        spec,
        {
            find(spec, "state.level", 0): HOLDS,
            find(spec, "state.level", 1): HOLDS,
            find(spec, "use_count", 0): WRONG,
            find(spec, "state.kind", 0): HOLDS,
            find(spec, "owner", 0): WAIVED,
        },
    )


def gadget_run(spec: Spec) -> Results:
    """proven, tested, refuted, failing; the rest stays as its verdict has it."""
    return compose(
        spec,
        {
            find(spec, "state.level", 0): Findings(
                {T + "level": Test(T + "level", "passed"), T + "later": Test(T + "later", "skipped")},
                {"level_is_lost": {T + "level"}},
                {Evidence("live", "6.12", "recordings/6.12/levels.json")},
            ),
            find(spec, "state.level", 1): Findings(
                {T + "sizes": Test(T + "sizes", "passed")}, {"sizes_are_lost": set()}
            ),
            find(spec, "use_count", 0): Findings(
                {T + "count": Test(T + "count", "passed", refutes=True)}, {"counts_users": {T + "count"}}
            ),
            find(spec, "state.kind", 0): Findings({T + "kind": Test(T + "kind", "failed")}),
        },
    )
