"""What changed since an earlier report, and the badge."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from mmuspec.report import build
from mmuspec.report.badge import Badge, badge
from mmuspec.report.build import Aside
from mmuspec.report.changes import Change, Facet, changes
from mmuspec.report.recorded import Recorded, Scene, scenes
from mmuspec.results import Evidence, Results
from mmuspec.status import Status
from tests.report import scene

DOCUMENT = scene.gadget()
SPEC = scene.gadget_spec(DOCUMENT)
NOW = build(SPEC, scene.gadget_run(SPEC), DOCUMENT).results
LEVEL = scene.find(SPEC, "state.level")


def earlier(**different: object) -> Results:
    """The report of today, less one thing of one statement."""
    return replace(
        NOW,
        statements=tuple(
            replace(each, **different) if each.id == LEVEL else each  # type: ignore[arg-type]
            for each in NOW.statements
        ),
    )


def test_nothing_changed() -> None:
    assert changes(NOW, NOW) == ()
    assert build(SPEC, scene.gadget_run(SPEC), DOCUMENT, aside=Aside(baseline=NOW)).changes == ()
    assert build(SPEC, scene.gadget_run(SPEC), DOCUMENT).changes is None


@pytest.mark.parametrize(
    ("different", "facet"),
    [
        ({"status": Status.TESTED}, Facet("status", "tested", "proven")),
        ({"verdict": None}, Facet("verdict", "", "holds")),
        ({"evidence": ()}, Facet("evidence", "", "live")),
        ({"digest": "0" * 16}, Facet("words", "other words", "these words")),
    ],
)
def test_each_facet_is_told(different: dict[str, object], facet: Facet) -> None:
    assert changes(earlier(**different), NOW) == (Change(LEVEL, "changed", "proven", (facet,)),)


def test_an_earlier_report_that_noted_no_words_says_nothing_of_them() -> None:
    assert changes(earlier(digest=""), NOW) == ()


def test_what_is_new_and_what_is_gone() -> None:
    first, *others = NOW.statements
    old = replace(first, id="gone/by-now", status=Status.WAIVED)

    assert changes(replace(NOW, statements=(old, *others)), NOW) == (
        Change(first.id, "new", first.status),
        Change("gone/by-now", "gone", "waived"),
    )


def test_a_badge_says_the_worst_first() -> None:
    report = build(SPEC, scene.gadget_run(SPEC), DOCUMENT)
    count = len(report.dossiers)
    passing = replace(report, dossiers=tuple(d for d in report.dossiers if d.status is not Status.FAILING))
    proven = replace(report, dossiers=tuple(d for d in report.dossiers if d.status is Status.PROVEN))

    assert badge(report).message == f"1 of {count} failing"
    assert badge(passing).message == f"1 of {count - 1} proven, 1 refuted"
    assert badge(proven).message == "1 of 1 proven"
    assert badge(replace(report, dossiers=())).message == badge(build(SPEC, None)).message == "nothing proven"
    assert len({badge(each).colour for each in (report, passing, proven, build(SPEC, None))}) == 4


def test_a_badge_is_a_picture_and_data() -> None:
    hostile = Badge('"<script>', "1 & 2", "#1d6b3f")
    picture = ElementTree.fromstring(hostile.svg)

    assert picture.attrib["aria-label"] == '"<script>: 1 & 2'
    assert [each.text for each in picture.iter("{http://www.w3.org/2000/svg}text")] == ['"<script>', "1 & 2"]
    assert json.loads(hostile.endpoint) == {
        "schemaVersion": 1, "label": '"<script>', "message": "1 & 2", "color": "#1d6b3f",
    }  # fmt: skip


def test_recordings_are_told_by_scenario_and_moment() -> None:
    folder = "conformance/recordings"
    evidence = [
        Evidence("live", "6.12", f"{folder}/6.12/shadow/unsync.json.gz[written]"),
        Evidence("live", "6.1", f"{folder}/6.1/shadow/unsync.json.gz[written]"),
        Evidence("live", "6.1", f"{folder}/6.1/tdp/huge.json.gz[before, after]"),
        Evidence("live", "6.1", "a/test.py::test_of_recordings[6.1]"),
    ]

    found = scenes(evidence)

    assert found == (
        Scene("huge", "before, after", (Recorded(f"{folder}/6.1/tdp/huge.json.gz", "6.1", "tdp"),)),
        Scene(
            "unsync",
            "written",
            (
                Recorded(f"{folder}/6.1/shadow/unsync.json.gz", "6.1", "shadow"),
                Recorded(f"{folder}/6.12/shadow/unsync.json.gz", "6.12", "shadow"),
            ),
        ),
    )
    assert found[0].source == "conformance/scenarios/huge.yaml"
