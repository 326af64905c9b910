"""The text for a pull request: what is wrong comes first, and nothing in it turns into markup."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import pytest

from mmuspec import results
from mmuspec.gaps import Gap, GapKind
from mmuspec.merge import bare
from mmuspec.report import build
from mmuspec.report.build import Aside
from mmuspec.report.markdown import code, summary
from mmuspec.results import StatementResult, compose
from mmuspec.spec import Curated, Verdict
from mmuspec.status import Status
from tests.report import scene

DOCUMENT = scene.gadget()
SPEC = scene.gadget_spec(DOCUMENT)
RUN = scene.gadget_run(SPEC)


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


def tables(text: str) -> list[list[list[str]]]:
    return [
        [cells(row) for row in block.splitlines()]
        for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    ]


def test_it_says_what_changed_and_what_is_missing() -> None:
    gap = Gap("rcu_head", GapKind.FIELD, "Slots", "What it is for.", "a.c, f", ("6.12",))
    first, *others = build(SPEC, RUN, DOCUMENT).results.statements
    baseline = replace(RUN, statements=(replace(first, verdict="stale"), *others))
    text = summary(build(SPEC, RUN, DOCUMENT, aside=Aside(gaps=(gap,), baseline=baseline)))

    assert (
        f"## Changed since the last report\n\n- `{first.id}`: changed: verdict was stale, is none\n\n## "
        in text
    )
    assert (
        "## Missing in the document\n\n- `rcu_head` (Slots, 6.12): What it is for.\n\n## Sections\n" in text
    )
    same = replace(baseline, statements=(first, *others))
    unchanged = summary(build(SPEC, RUN, DOCUMENT, aside=Aside(baseline=same)))
    assert "## Changed since the last report\n\nNothing.\n\n## Sections\n" in unchanged
    assert "## Changed" not in summary(build(SPEC, RUN, DOCUMENT))


def test_totals_and_sections_are_tables() -> None:
    report = build(SPEC, RUN, DOCUMENT)
    by_status, by_section = tables(summary(report))

    assert [row[:2] for row in by_status[2:]] == [
        [row[0], str(report.totals[status])] for row, status in zip(by_status[2:], Status, strict=True)
    ]
    assert [row[0] for row in by_section[2:]] == [chapter.title for chapter in report.chapters]
    assert all(len(row) == 2 + len(Status) for row in by_section)


def test_what_is_wrong_is_listed_with_its_claim() -> None:
    text = summary(build(SPEC, RUN, DOCUMENT))
    failing, refuted, tested, sections = (
        text.index(title) for title in ("## Tests fail", "## The document is", "## Tests pass", "## Sections")
    )

    assert failing < refuted < tested < sections
    assert f"`{scene.T}kind`" in text[failing:refuted]
    assert r"(line 49, wrong): No, it counts owners." in text[refuted:tested].replace("\\", "")


def test_pipes_do_not_make_columns() -> None:
    document = scene.document_of("A | b `c` *d*\n=============\n\nOne.\n")
    _, sections = tables(summary(build(bare(document), None, document)))

    assert sections[2][0] == r"A \| b c d"
    assert len(sections[2]) == 2 + len(Status)


def test_markup_in_a_claim_stays_text() -> None:
    statement = scene.find(SPEC, "state.level")
    claim = "a|b `x` *y* _z_ <b> [l](u) #1 ~~s~~ @name \\ $m$"
    spec = scene.curated(SPEC, {statement: Curated(claim=claim, verdict=Verdict.HOLDS)})
    text = summary(build(spec, replace(RUN, statements=_failed(statement)), DOCUMENT))
    line = next(row for row in text.splitlines() if row.startswith(f"- `{statement}`"))
    written = line.split(": ", 1)[1]

    assert not re.search(r"(?<!\\)(?:\\\\)*[|`*_<\[\]#~$]", written.replace("@&#8203;", "@"))
    assert re.sub(r"\\(.)", r"\1", written).replace("&#8203;", "") == claim


def _failed(statement: str) -> tuple[StatementResult, ...]:
    return tuple(
        replace(each, tests=(results.Test("t", "failed"),)) if each.id == statement else each
        for each in RUN.statements
    )


@pytest.mark.parametrize(
    ("text", "span"),
    [("a/b", "`a/b`"), ("a`b", "``a`b``"), ("`a`", "`` `a` ``"), ("a|b", r"`a\|b`"), ("a\nb", "`a b`")],
)
def test_code_spans_hold_anything(text: str, span: str) -> None:
    assert code(text) == span


def test_a_long_list_is_cut_and_says_so() -> None:
    document = scene.document_of("A\n=\n\n" + "".join(f"- point {n}\n" for n in range(60)))
    spec = bare(document)
    run = compose(spec, {})
    run = replace(
        run, statements=tuple(replace(s, tests=(results.Test("t", "failed"),)) for s in run.statements)
    )
    text = summary(build(spec, run, document))

    assert len(re.findall(r"^- `", text, re.MULTILINE)) == 50
    assert "- and 10 more, see the page" in text


def test_notices_come_first() -> None:
    lines = summary(build(SPEC, None)).splitlines()

    assert [line[:21] for line in lines if line.startswith(">")] == [
        "> No document at hand",
        "> No test results at ",
    ]


def test_no_line_runs_into_the_next() -> None:
    text = summary(build(SPEC, RUN, DOCUMENT))

    assert "\n\n\n\n" not in text
    assert all(not before for before, line in pairwise(["", *text.splitlines()]) if line.startswith("#"))
