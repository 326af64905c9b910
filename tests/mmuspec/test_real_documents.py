"""The documents of 6.1 and 6.12 as they are, and this repository's own spec of them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from mmuspec.document import Document, Kind
from mmuspec.drift import of_documents, of_spec
from mmuspec.extract import extract
from mmuspec.merge import merge
from mmuspec.specfiles import load_spec
from mmuspec.text import fold

SPEC = Path(__file__).parents[2] / "spec"
PATH = "Documentation/virt/kvm/x86/mmu.rst"


@pytest.fixture
def documents(real_document: dict[str, str]) -> dict[str, Document]:
    return {release: extract(text, PATH, release)[0] for release, text in real_document.items()}


def test_fields(documents: dict[str, Document]) -> None:
    counted = {r: (len(d.fields), sum(len(f.names) for f in d.fields)) for r, d in documents.items()}
    assert counted == {"6.1": (23, 23), "6.12": (27, 28)}


def test_items_and_statements(documents: dict[str, Document]) -> None:
    assert len(documents["6.12"].statements) == 236
    assert len(documents["6.1"].statements) == 219
    kinds = Counter(item.kind for item in documents["6.12"].items)
    assert kinds[Kind.REQUIREMENT] == 9
    assert kinds[Kind.ACRONYM] == 12
    assert kinds[Kind.MAPPING] == 5


def test_docutils_finds_nothing_wrong(real_document: dict[str, str]) -> None:
    assert [c for text in real_document.values() for c in extract(text, PATH)[1]] == []


def test_the_lines_of_a_statement_are_its_lines(
    documents: dict[str, Document], real_document: dict[str, str]
) -> None:
    for release, document in documents.items():
        source = real_document[release].splitlines()
        for statement in document.statements:
            words = statement.text.split()
            first, last = source[statement.line - 1], source[statement.end_line - 1]
            assert words[0] in first and words[-1] in last


def test_the_spec_is_the_spec_of_6_12(documents: dict[str, Document]) -> None:
    texts = {s.digest: s.text for s in documents["6.12"].statements}
    assert not of_spec(load_spec(SPEC), documents["6.12"], texts.get, texts)


def test_the_spec_knows_every_statement_of_both(documents: dict[str, Document]) -> None:
    known = {s.digest for s in load_spec(SPEC).everything()}
    for document in documents.values():
        assert {s.digest for s in document.statements} <= known


def test_6_1_and_back_loses_no_word(documents: dict[str, Document]) -> None:
    spec = load_spec(SPEC)
    words = {s.digest: s.text for d in documents.values() for s in d.statements}
    there = merge(spec, documents["6.1"], words.get).spec
    back = merge(there, documents["6.12"], words.get).spec
    assert back.items == spec.items
    assert {s.curated for s in spec.everything()} <= {s.curated for s in there.everything()}


def test_the_difference_has_the_classes_a_reviewer_expects(documents: dict[str, Document]) -> None:
    drift = of_documents(documents["6.1"], documents["6.12"], load_spec(SPEC))
    classes = {change.id: change.kind for change in drift.changed}
    assert classes["role.passthrough/five-over-four-levels"] == "number"
    assert classes["unsync_child_bitmap/locates-unsync-pages"] == "wording"
    assert "ptep/tdp-only-union" in drift.added
    assert drift.moved == ()


def as_plain_text(source: str) -> str:
    """The page laid out as it was before it became RST: no table, no literal block, few blank lines."""
    source = re.sub(r"^={3,}\n(?=The)|^\.\. .*\n\n", "", source, flags=re.MULTILINE)
    source = re.sub(r"^- ([a-z ]+):\n\s+", r"- \1:   ", source, flags=re.MULTILINE)
    source = re.sub(r"^====  =+\n", "", source, flags=re.MULTILINE)
    source = source.replace("guests::", "guests:")
    source = re.sub(r"\n\n(?=\s+(?:non-tdp:|nonpaging:| ?Nested guests:))", "\n", source)
    source = re.sub(r"(events|follows|be|updates|cr3|efer):\n\n(?=\s*- )", r"\1:\n", source)
    return re.sub(r"(?<=[a-z.)\]])\n\n(?=\s+- )", "\n", source)


def test_older_layouts_state_the_same(real_document: dict[str, str]) -> None:
    for text in real_document.values():
        plain = as_plain_text(text)
        assert len(plain.splitlines()) < len(text.splitlines()) - 20
        before = [fold(s.text.replace("::", ":")) for s in extract(text, PATH)[0].statements]
        after = [s.text for s in extract(plain, "mmu.txt")[0].statements]
        assert after == before
