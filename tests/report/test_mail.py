"""The report as a text for a mail: narrow, the wrong first, harmless in every line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mmuspec.gaps import Gap, GapKind
from mmuspec.report import build
from mmuspec.report.changes import Change
from mmuspec.report.mail import LISTED, WIDTH, text
from mmuspec.status import Status
from tests.report import scene

DOCUMENT = scene.gadget()
SPEC = scene.gadget_spec(DOCUMENT)
REPORT = build(SPEC, scene.gadget_run(SPEC), DOCUMENT)


def narrow(written: str) -> bool:
    """No line is wider than it may be, but for names that have to stay whole."""
    return all(len(line) <= WIDTH or " " not in line.strip() for line in written.splitlines())


def test_it_says_what_is_wrong_before_anything_else() -> None:
    written = text(REPORT)

    headings = [
        line
        for line, below in zip(written.splitlines(), written.splitlines()[1:], strict=False)
        if below and set(below) == {"-"}
    ]
    assert headings[0] == "Wrong in the document (2)"
    assert headings[-1] == "Sections"
    wrong = written.split("Wrong in the document")[1].split("Tested, but")[0]
    for known in REPORT.wrong:
        assert known.id in wrong
    assert "Since 5.19." in wrong
    assert "failed: conformance/test_gadget.py::test_kind" in wrong


def test_totals_and_sections_add_up() -> None:
    written = text(REPORT)

    for status in Status:
        assert f"{REPORT.totals[status]:5} {status.value} " in written
    rows = [line.split() for line in written.split("Sections\n--------\n")[1].splitlines()[1:]]
    assert sum(int(row[-7]) for row in rows) == len(REPORT.dossiers)


def test_it_is_narrow_and_has_no_trailing_blanks() -> None:
    written = text(REPORT)

    assert narrow(written)
    assert not any(line != line.rstrip() for line in written.splitlines())


@pytest.mark.parametrize(
    "hostile",
    ["--- a/file\n+++ b/file\n@@ -1 +1 @@", "From me to you", "diff --git a b", "-- \nsig", "\x1b[31m\u202e"],
)
def test_nothing_from_outside_begins_a_line(hostile: str) -> None:
    """git-am cuts a message at ``---`` and ``diff``, mbox readers begin one at ``From``, mailers a signature."""
    dossiers = tuple(replace(each, text=hostile, why=hostile, id=hostile) for each in REPORT.dossiers)
    gaps = (Gap(hostile, GapKind.FIELD, hostile, hostile, hostile),)
    report = replace(REPORT, dossiers=dossiers, gaps=gaps, changes=(Change(hostile, "new", "proven"),))

    written = text(report)

    for line in written.splitlines():
        assert not line.startswith(("--- ", "diff ", "From ", "+++", "@@")) and line != "---"
    assert "\x1b" not in written and "\u202e" not in written
    assert narrow(written)


def test_long_lists_are_cut_and_counted() -> None:
    many = tuple(replace(REPORT.dossiers[0], id=f"s/{n}", status=Status.TESTED) for n in range(LISTED + 7))

    assert "  and 7 more" in text(replace(REPORT, dossiers=many))


def test_what_changed_is_told_if_there_is_a_baseline() -> None:
    assert "Changed since" not in text(REPORT)
    assert "Changed since the last report (0)" in text(replace(REPORT, changes=()))


def test_without_results_and_document_it_still_has_something_to_say() -> None:
    written = text(build(SPEC))

    assert "Note: No test results at hand" in " ".join(written.split())
    assert narrow(written)
