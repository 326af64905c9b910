"""What the report says is computed from spec, run and document, whatever of the last two is at hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mmuspec.errors import Problem
from mmuspec.report import build
from mmuspec.results import Results, as_json
from mmuspec.spec import Spec, Verdict
from mmuspec.status import Status
from tests.mmuspec.gadget import GADGET
from tests.report import scene

DOCUMENT = scene.gadget()
SPEC = scene.gadget_spec(DOCUMENT)
RUN = scene.gadget_run(SPEC)


def status_in(report_of: Spec, run: Results | None, statement: str) -> Status:
    return next(d.status for d in build(report_of, run, DOCUMENT).dossiers if d.id == statement)


@pytest.mark.parametrize(
    ("item", "number", "status"),
    [
        ("state.level", 0, Status.PROVEN),
        ("state.level", 1, Status.TESTED),
        ("use_count", 0, Status.REFUTED),
        ("state.kind", 0, Status.FAILING),
        ("owner", 0, Status.WAIVED),
        ("state.kind", 1, Status.UNCOVERED),
    ],
)
def test_each_status_is_found(item: str, number: int, status: Status) -> None:
    assert status_in(SPEC, RUN, scene.find(SPEC, item, number)) is status


def test_a_dossier_has_all_that_is_known() -> None:
    wrong = next(d for d in build(SPEC, RUN, DOCUMENT).dossiers if d.status is Status.REFUTED)

    assert wrong.text == "use_count counts users."
    assert (wrong.claim, wrong.verdict, wrong.why) == (
        "No, it counts owners.",
        Verdict.WRONG,
        "Since 5.19.",
    )
    assert wrong.kernels == (("6.1", Verdict.HOLDS), ("6.12", Verdict.WRONG))
    assert [(t.nodeid, t.refutes) for t in wrong.tests] == [(scene.T + "count", True)]
    assert wrong.violations[0].killed_by == (scene.T + "count",)


def test_every_statement_is_in_one_chapter_in_the_order_of_the_document() -> None:
    report = build(SPEC, RUN, DOCUMENT)

    assert [d.id for chapter in report.chapters for d in chapter.dossiers] == scene.statement_ids(SPEC)
    assert [d.id for d in report.dossiers] == scene.statement_ids(SPEC)
    assert [c.title for c in report.chapters] == ["The gadget cache", "Acronyms", "Slots", "Events"]


def test_totals_of_chapters_add_up_to_those_of_the_report() -> None:
    report = build(SPEC, RUN, DOCUMENT)

    for status in Status:
        assert sum(chapter.totals[status] for chapter in report.chapters) == report.totals[status]
    assert sum(report.totals.values()) == len(report.dossiers)
    assert report.totals[Status.PROVEN] == 1


def test_statuses_follow_the_verdicts_of_today() -> None:
    statement = scene.find(SPEC, "use_count", 0)
    edited = scene.curated(SPEC, {statement: scene.HOLDS})

    assert status_in(edited, RUN, statement) is Status.TESTED  # a refuting test proves no sentence true
    assert any("Verdicts edited since the tests ran: 1." in n for n in build(edited, RUN, DOCUMENT).notices)


def test_the_results_schema_carries_todays_statuses() -> None:
    data = as_json(build(SPEC, RUN, DOCUMENT).results)

    assert [entry["id"] for entry in data["statements"]] == scene.statement_ids(SPEC)
    assert data["totals"]["proven"] == 1
    assert sum(data["totals"].values()) == len(data["statements"])
    assert data["document"] == {"release": "6.12", "sha256": SPEC.source.sha256}
    assert data["kernels"] == ["6.1", "6.12"]


def test_nothing_is_noted_when_all_is_at_hand() -> None:
    assert build(SPEC, RUN, DOCUMENT).notices == ()


def test_without_results_nothing_counts_as_tested_and_it_says_so() -> None:
    report = build(SPEC, None, DOCUMENT)

    assert {d.status for d in report.dossiers} == {Status.WAIVED, Status.UNCOVERED}
    assert any("No test results at hand" in notice for notice in report.notices)


def test_without_a_document_every_statement_is_there_without_words() -> None:
    report = build(SPEC, RUN)

    assert [d.id for chapter in report.chapters for d in chapter.dossiers] == scene.statement_ids(SPEC)
    assert all(d.text is None for d in report.dossiers)
    assert [c.title for c in report.chapters] == ["The gadget cache", "Acronyms", "Slots", "Events"]
    assert any("No document at hand" in notice for notice in report.notices)


def test_another_revision_lends_its_words_where_they_are_the_same() -> None:
    other = scene.document_of(GADGET.replace("Points to the owner.", "Names the owner.  Is new."), "6.13")
    report = build(SPEC, RUN, other)
    owner = scene.find(SPEC, "owner")

    assert {d.id for d in report.dossiers if d.text is None} == {owner}
    slots = next(c for c in report.chapters if c.title == "Slots")
    assert owner in {d.id for d in slots.dossiers}
    assert slots.wordless
    assert [n for n in report.notices if "is not the one that the spec was made from" in n]
    assert "Statements of the spec that are not in the document at hand: 1." in report.notices
    assert "Statements of the document at hand that are not in the spec: 2." in report.notices


def test_a_section_that_the_document_lost_is_still_there() -> None:
    report = build(SPEC, RUN, scene.document_of(GADGET[: GADGET.index("Events\n======")]))

    assert report.chapters[-1].title == "Events"
    assert sorted(d.id for c in report.chapters for d in c.dossiers) == sorted(scene.statement_ids(SPEC))


def test_obsolete_statements_stand_apart() -> None:
    report = build(SPEC, RUN, DOCUMENT)

    assert [former.release for former in report.obsolete] == ["6.1"]
    assert report.obsolete[0].dossier.id not in {d.id for d in report.dossiers}


def test_results_of_another_document_are_refused() -> None:
    with pytest.raises(
        Problem, match=r"json: error: results of another document .*; run `pytest conformance/` again$"
    ) as e:
        build(SPEC, replace(RUN, sha256="0" * 64), DOCUMENT, results_from=Path("build/mine.json"))
    assert e.value.where == "build/mine.json"


def test_results_with_an_id_that_the_spec_does_not_know_are_refused() -> None:
    foreign = replace(RUN.statements[0], id="nobody/knows-this")

    with pytest.raises(Problem, match=r"'nobody/knows-this' is no statement of this one; run `pytest"):
        build(SPEC, replace(RUN, statements=(*RUN.statements, foreign)), DOCUMENT)


def test_statements_that_the_run_does_not_have_are_noted() -> None:
    report = build(SPEC, replace(RUN, statements=RUN.statements[1:]), DOCUMENT)

    assert (
        "Statements that were not part of the test run: 1. Run pytest conformance/ again." in report.notices
    )
