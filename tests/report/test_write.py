"""The report on disk: whole, or as it was before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmuspec import report as reports
from mmuspec.errors import Problem
from mmuspec.report import build, write
from mmuspec.results import load
from tests.report import scene

DOCUMENT = scene.gadget()
SPEC = scene.gadget_spec(DOCUMENT)
REPORT = build(SPEC, scene.gadget_run(SPEC), DOCUMENT)


def test_all_files_are_written(tmp_path: Path) -> None:
    assert write(REPORT, tmp_path / "build" / "report") == tmp_path / "build" / "report" / "index.html"
    assert sorted(p.name for p in (tmp_path / "build" / "report").iterdir()) == [
        "badge.json",
        "badge.svg",
        "index.html",
        "lcov.info",
        "report.json",
        "report.md",
        "report.txt",
    ]


def test_the_data_is_what_the_results_schema_says(tmp_path: Path) -> None:
    write(REPORT, tmp_path)

    assert load([tmp_path / "report.json"]) == REPORT.results
    assert json.loads((tmp_path / "report.json").read_text())["schema"] == 1


def test_the_same_report_is_written_the_same(tmp_path: Path) -> None:
    write(REPORT, tmp_path / "one")
    write(build(SPEC, scene.gadget_run(SPEC), scene.gadget()), tmp_path / "two")

    for name in ("index.html", "report.md", "report.json", "report.txt", "lcov.info"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_folder_that_is_a_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")

    with pytest.raises(Problem, match="cannot be written") as problem:
        write(REPORT, tmp_path / "taken")
    assert problem.value.where == str(tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_reporter_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "index.html").write_text("before")

    def interrupted(_report: reports.Report) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmuspec.report.markdown.summary", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(REPORT, tmp_path)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("index.html", "before")]
