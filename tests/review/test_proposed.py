"""A statement that was proposed and that no document ever had: in the spec, in what is told of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mmuspec.document import Kind
from mmuspec.errors import Problem
from mmuspec.explain import explain
from mmuspec.extract import extract
from mmuspec.merge import bare
from mmuspec.report import build
from mmuspec.report.html import page
from mmuspec.spec import Curated, Obsolete, Spec, SpecItem, SpecStatement, Verdict
from mmuspec.specfiles import load_spec, save_spec
from tests.review.scene import PAGE, PATH

SAID = Curated("It is freed.", Verdict.WRONG, "never freed: root.c")


@pytest.fixture
def spec() -> Spec:
    statement = SpecStatement("root_count/freed", 7, 8, "0123456789abcdef", SAID)
    item = SpecItem("root_count", Kind.FIELD, ("root_count",), "Pages", 7, 8, ())
    proposed = Obsolete(statement, item, "", "", proposed="v3 4/6 of a series")
    return replace(bare(extract(PAGE, PATH, "6.12")[0]), obsolete=(proposed,))


def test_it_survives_a_round_trip(spec: Spec, tmp_path: Path) -> None:
    save_spec(spec, tmp_path)
    text = (tmp_path / "obsolete.yaml").read_text()
    assert "last_seen" not in text
    read = load_spec(tmp_path)
    assert read.obsolete == spec.obsolete
    save_spec(read, tmp_path)
    assert (tmp_path / "obsolete.yaml").read_text() == text


@pytest.mark.parametrize("line", ["  last_seen: {sha256: abc}\n  proposed: x\n", ""])
def test_it_is_either_seen_or_proposed(spec: Spec, tmp_path: Path, line: str) -> None:
    save_spec(spec, tmp_path)
    path = tmp_path / "obsolete.yaml"
    path.write_text(path.read_text().replace("  proposed: v3 4/6 of a series\n", line))
    with pytest.raises(Problem, match="one of last_seen and proposed"):
        load_spec(tmp_path)


def test_it_is_told_as_what_it_is(spec: Spec) -> None:
    told = explain(spec, None, None, "root_count/freed")
    assert "never in a document: proposed in v3 4/6 of a series" in told
    assert "Proposed in v3 4/6 of a series, in no document" in page(build(spec, None, None))
