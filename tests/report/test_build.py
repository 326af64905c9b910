"""What the report says is computed from spec, run and document, whatever of the last two is at hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mmuspec.errors import Problem
from mmuspec.report import build
from mmuspec.report.build import Aside
from mmuspec.report.dossier import Drift
from mmuspec.report.history import Edition, Fate, Step, history
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


def test_results_that_have_nothing_to_do_with_the_spec_are_refused() -> None:
    foreign = replace(RUN, sha256="0" * 64, statements=(replace(RUN.statements[0], id="nobody/knows-this"),))
    with pytest.raises(
        Problem, match=r"json: error: results of another document .*; run `pytest conformance/` again$"
    ) as e:
        build(SPEC, foreign, DOCUMENT, results_from=Path("build/mine.json"))
    assert e.value.where == "build/mine.json"


def older_run(*, noted: bool = True) -> Results:
    """A run over another revision, in which `use_count` had other words; or nobody noted which words there were."""
    moved = scene.find(SPEC, "use_count")
    return replace(
        RUN,
        sha256="0" * 64,
        statements=tuple(
            replace(each, digest="0" * 16 if each.id == moved else each.digest if noted else "")
            for each in RUN.statements
        ),
    )


def test_a_document_that_moved_on_since_the_tests_ran_is_shown_sentence_by_sentence() -> None:
    report = build(SPEC, older_run(), DOCUMENT)
    moved = next(d for d in report.dossiers if d.id == scene.find(SPEC, "use_count"))

    assert [d.id for d in report.dossiers if d.drift] == [moved.id]
    assert moved.drift is Drift.UNTESTED_WORDS
    assert moved.status is Status.UNCOVERED  # what the tests showed is told, and counts for nothing
    assert [test.outcome for test in moved.tests] == ["passed"]
    assert not (moved.result.tests or moved.result.evidence or moved.result.violations)
    assert report.totals[Status.PROVEN] == 1
    assert (
        "Statements whose words changed since the tests ran: 1. Run pytest conformance/ again."
        in report.notices
    )


def test_a_run_over_another_revision_that_noted_no_words_counts_for_nothing() -> None:
    report = build(SPEC, older_run(noted=False), DOCUMENT)

    assert {d.status for d in report.dossiers} == {Status.WAIVED, Status.UNCOVERED}
    assert {bool(d.tests) for d in report.dossiers if d.drift} == {True}


def test_a_run_over_this_revision_that_noted_no_words_counts() -> None:
    old = replace(RUN, statements=tuple(replace(each, digest="") for each in RUN.statements))

    assert [d.status for d in build(SPEC, old, DOCUMENT).dossiers] == [
        d.status for d in build(SPEC, RUN, DOCUMENT).dossiers
    ]


def test_a_sentence_that_the_document_at_hand_words_otherwise_is_shown_as_such() -> None:
    other = scene.document_of(
        GADGET.replace("use_count counts users.", "use_count counts all users."), "6.13"
    )
    words = {statement.digest: statement.text for statement in DOCUMENT.statements}
    report = build(SPEC, RUN, other, aside=Aside(words_of=words.get))
    reworded = next(d for d in report.dossiers if d.drift)

    assert reworded.id == scene.find(SPEC, "use_count")
    assert reworded.drift is Drift.REWORDED
    assert reworded.text == "use_count counts users."  # what is known is known of these
    slots = next(c for c in report.chapters if c.title == "Slots")
    assert reworded in slots.dossiers and not slots.wordless


def test_history_goes_over_the_releases_at_hand() -> None:
    six_one = GADGET.replace("use_count counts users.", "use_count counts the users.")
    editions = (
        Edition.of("6.1", scene.document_of(six_one, "6.1")),
        Edition.of("6.12", DOCUMENT),
    )
    report = build(SPEC, RUN, DOCUMENT, aside=Aside(editions=editions))
    fates = {d.id: [(step.where, step.fate) for step in d.history] for d in report.dossiers}

    assert fates[scene.find(SPEC, "owner")] == [("6.1", Fate.SAME), ("6.12", Fate.SAME)]
    assert fates[scene.find(SPEC, "use_count")] == [("6.1", Fate.ABSENT), ("6.12", Fate.SAME)]


def test_history_knows_former_words_and_what_was_only_proposed() -> None:
    statement = next(SPEC.statements())
    former = replace(SPEC.obsolete[0], replaced_by=statement.id, release="6.1")
    proposed = replace(former, proposed="v3 5/6", release="", sha256="")
    six_one = Edition("6.1", {former.statement.digest: "The former words."})
    other, text = former.statement.id, "The former words."

    assert history(statement, [former, proposed], [six_one]) == (
        Step("6.1", Fate.REWORDED, other, text),
        Step("v3 5/6", Fate.PROPOSED, other),
    )
    assert history(statement, [former], []) == (Step("6.1", Fate.FORMER, other),)


def test_what_is_wrong_comes_failing_first_then_wrong_then_stale() -> None:
    stale = replace(scene.WRONG, verdict=Verdict.STALE)
    spec = scene.curated(SPEC, {scene.find(SPEC, "owner"): stale})

    found = [(d.status, d.verdict) for d in build(spec, RUN, DOCUMENT).wrong]

    assert found == [
        (Status.FAILING, Verdict.HOLDS),
        (Status.REFUTED, Verdict.WRONG),
        (Status.UNCOVERED, Verdict.STALE),
    ]


def test_totals_by_verdict_and_tier_add_up() -> None:
    report = build(SPEC, RUN, DOCUMENT)

    assert sum(report.verdicts.values()) == len(report.dossiers)
    assert report.verdicts[Verdict.WRONG] == 1
    assert report.tiers == {"live": 1, "": len(report.dossiers) - 1}


def test_kernels_are_held_side_by_side() -> None:
    beside = build(SPEC, RUN, DOCUMENT).side_by_side

    assert [kernel.release for kernel in beside.kernels] == ["6.1", "6.12"]
    assert [kernel.verdicts[Verdict.WRONG] for kernel in beside.kernels] == [0, 1]
    assert [kernel.tiers["live"] for kernel in beside.kernels] == [0, 1]
    assert [(row.dossier.id, row.cells) for row in beside.differing] == [
        (scene.find(SPEC, "state.level"), ((Verdict.HOLDS, ()), (Verdict.HOLDS, ("live",)))),
        (scene.find(SPEC, "use_count"), ((Verdict.HOLDS, ()), (Verdict.WRONG, ()))),
    ]


def test_results_with_an_id_that_the_spec_does_not_know_are_refused() -> None:
    foreign = replace(RUN.statements[0], id="nobody/knows-this")

    with pytest.raises(Problem, match=r"'nobody/knows-this' is no statement of this one; run `pytest"):
        build(SPEC, replace(RUN, statements=(*RUN.statements, foreign)), DOCUMENT)


def test_statements_that_the_run_does_not_have_are_noted() -> None:
    report = build(SPEC, replace(RUN, statements=RUN.statements[1:]), DOCUMENT)

    assert (
        "Statements that were not part of the test run: 1. Run pytest conformance/ again." in report.notices
    )
