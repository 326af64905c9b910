"""The command line as its users meet it: output, exit status, one line for what is wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from mmuspec import results
from mmuspec.cli import main
from mmuspec.reading import load_spec_once
from mmuspec.specfiles import load_spec
from tests.mmuspec.gadget import GADGET

CHANGED = GADGET.replace("takes one step", "takes two steps")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two revisions of a document and, made from the first, a spec."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.rst").write_text(GADGET)
    (tmp_path / "new.rst").write_text(CHANGED)
    assert mmuspec("regen", "old.rst").exit_code == 0
    return tmp_path


def mmuspec(*arguments: str) -> Result:
    load_spec_once.cache_clear()
    return CliRunner().invoke(main, ["--spec", "spec", *arguments], catch_exceptions=False)


def assert_refused(result: Result, message: str) -> None:
    """Exit status 2 and one line on standard error that begins with a place."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    errors = [line for line in result.stderr.splitlines() if ": error: " in line]
    assert len(errors) == 1
    assert re.match(r"^[^:]+(:\d+)?: error: ", errors[0])
    assert message in errors[0]


class TestExtract:
    def test_prints_the_published_schema(self, here: Path) -> None:
        data = yaml.safe_load(mmuspec("extract", "old.rst").stdout)
        assert data["schema"] == 1
        assert set(data["document"]) == {"path", "title", "sha256", "lines"}
        field = next(item for item in data["items"] if item["kind"] == "field")
        assert list(field) == ["id", "kind", "names", "section", "line", "end_line", "text", "statements"]
        assert list(field["statements"][0]) == ["id", "line", "end_line", "digest", "text"]

    def test_has_the_ids_of_the_spec(self, here: Path) -> None:
        path = here / "spec" / "introduction.yaml"
        path.write_text(path.read_text().replace("introduction/speed/", "introduction/speed/by-hand-"))
        assert "introduction/speed/by-hand-" in mmuspec("extract", "old.rst").stdout

    def test_to_a_file(self, here: Path) -> None:
        assert mmuspec("extract", "old.rst", "-o", "out.yaml").exit_code == 0
        assert yaml.safe_load((here / "out.yaml").read_text())["document"]["path"] == "old.rst"

    def test_several_documents_go_to_a_folder(self, here: Path) -> None:
        result = mmuspec("extract", "old.rst", "new.rst", "-o", "out")
        assert result.exit_code == 0
        assert sorted(path.name for path in (here / "out").iterdir()) == ["new.yaml", "old.yaml"]
        assert_refused(mmuspec("extract", "old.rst", "new.rst"), "name it with -o")

    def test_a_folder_keeps_its_shape_and_bad_ones_do_not_stop_it(self, here: Path) -> None:
        (here / "docs" / "deep").mkdir(parents=True)
        (here / "docs" / "deep" / "good.rst").write_text(GADGET)
        (here / "docs" / "index.rst").write_text(".. toctree::\n\n   deep/good\n")
        (here / "docs" / "bad.rst").write_bytes(b"\xff\xfe\x00")
        result = mmuspec("extract", "docs", "-o", "out")
        assert result.exit_code == 2
        assert "bad.rst" in result.stderr and "error:" in result.stderr
        assert (here / "out" / "deep" / "good.yaml").exists()
        assert yaml.safe_load((here / "out" / "index.yaml").read_text())["items"] == []
        assert not (here / "out" / "bad.yaml").exists()

    def test_two_documents_for_one_file(self, here: Path) -> None:
        (here / "docs").mkdir()
        (here / "docs" / "old.rst").write_text(GADGET)
        assert_refused(mmuspec("extract", "old.rst", "docs/old.rst", "-o", "out"), "would both be written")


class TestRegen:
    def test_says_what_it_did_and_twice_is_nothing(self, here: Path) -> None:
        result = mmuspec("regen", "new.rst")
        assert result.exit_code == 0
        assert "reworded   introduction/speed/" in result.stdout
        files = {path: path.read_bytes() for path in (here / "spec").iterdir()}
        assert "nothing to do" in mmuspec("regen", "new.rst").stdout
        assert {path: path.read_bytes() for path in (here / "spec").iterdir()} == files

    def test_what_people_wrapped_otherwise_is_written_as_the_tool_writes_it(self, here: Path) -> None:
        mmuspec("regen", "new.rst")
        files = {path: path.read_bytes() for path in (here / "spec").iterdir()}
        by_hand = sorted(files)[0]
        by_hand.write_bytes(files[by_hand].replace(b"schema: 1", b"schema:   1"))
        result = mmuspec("regen", "new.rst")
        assert "written in the canonical form" in result.stdout
        assert "nothing to do" in result.stdout
        assert {path: path.read_bytes() for path in (here / "spec").iterdir()} == files

    def test_without_the_old_words_it_refuses_and_changes_nothing(
        self, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = {path: path.read_bytes() for path in (here / "spec").iterdir()}
        monkeypatch.setenv("MMUSPEC_CACHE", str(here / "empty"))
        assert_refused(mmuspec("regen", "new.rst"), "run `mmuspec fetch")
        assert {path: path.read_bytes() for path in (here / "spec").iterdir()} == files

    def test_a_page_without_fields_is_not_the_document(self, here: Path) -> None:
        (here / "other.rst").write_text("Other\n=====\n\nIt has no fields.\n")
        assert_refused(mmuspec("regen", "other.rst"), "describes no field")

    def test_broken_markup_is_refused_with_its_line(self, here: Path) -> None:
        (here / "broken.rst").write_text(GADGET + "\n=====\nMore\n~~~~~\n")
        line = len(GADGET.splitlines()) + 2
        result = mmuspec("regen", "broken.rst")
        assert_refused(result, f"broken.rst:{line}: error: broken RST: Title overline")

    def test_plain_text_is_no_broken_markup(self, here: Path) -> None:
        (here / "old.txt").write_text(GADGET + "\n=====\nMore\n~~~~~\n")
        assert mmuspec("regen", "old.txt").exit_code == 0


class TestCheck:
    def test_in_step(self, here: Path) -> None:
        result = mmuspec("check", "old.rst")
        assert result.exit_code == 0
        assert "in step" in result.stdout

    def test_drift_as_text_and_as_json_alone(self, here: Path) -> None:
        before = {path: path.read_bytes() for path in (here / "spec").iterdir()}
        result = mmuspec("check", "new.rst")
        assert result.exit_code == 1
        assert "(number)" in result.stdout
        data = json.loads(mmuspec("check", "new.rst", "--format", "json").stdout)
        assert [c["class"] for c in data["changed"]] == ["number"]
        assert set(data) == {"added", "removed", "moved", "changed"}
        assert {path: path.read_bytes() for path in (here / "spec").iterdir()} == before

    def test_markup_does_not_block(self, here: Path) -> None:
        (here / "marked.rst").write_text(GADGET.replace("keeps gadgets", "keeps *gadgets*"))
        result = mmuspec("check", "marked.rst")
        assert result.exit_code == 0
        assert "(markup)" in result.stdout

    def test_old_words_not_at_hand_are_said_and_block(
        self, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MMUSPEC_CACHE", str(here / "empty"))
        result = mmuspec("check", "new.rst")
        assert result.exit_code == 1
        assert "not at hand" in result.stderr

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("empty.rst", b""),
            ("binary.rst", b"\x00\x01\x02"),
            ("latin1.rst", "Öl\n==\n".encode("latin-1")),
            ("fields.rst", b"Title\n=====\n\nNo field.\n"),
            ("missing.rst", None),
        ],
    )
    def test_what_is_no_document(self, here: Path, name: str, content: bytes | None) -> None:
        if content is not None:
            (here / name).write_bytes(content)
        assert_refused(mmuspec("check", name), "")

    def test_a_folder_is_no_document(self, here: Path) -> None:
        assert_refused(mmuspec("check", "spec"), "")

    def test_a_hundred_megabytes_are_not_read(self, here: Path) -> None:
        with (here / "huge.rst").open("wb") as file:
            file.truncate(100_000_000)
        assert_refused(mmuspec("check", "huge.rst"), "")

    def test_a_broken_spec(self, here: Path) -> None:
        path = here / "spec" / "slots.yaml"
        path.write_text(path.read_text().replace("kind: field", "kind: meadow", 1))
        assert_refused(mmuspec("check", "old.rst"), "slots.yaml")


class TestDiff:
    def test_the_same(self, here: Path) -> None:
        result = mmuspec("diff", "old.rst", "old.rst")
        assert result.exit_code == 0
        assert json.loads(mmuspec("diff", "old.rst", "old.rst", "--format", "json").stdout)["changed"] == []

    def test_a_difference(self, here: Path) -> None:
        result = mmuspec("diff", "old.rst", "new.rst")
        assert result.exit_code == 1
        assert "  - speed: a lookup takes one step, e.g. one comparison" in result.stdout
        assert "  + speed: a lookup takes two steps, e.g. one comparison" in result.stdout


class TestReport:
    def test_without_results_it_says_so(self, here: Path) -> None:
        result = mmuspec("report", "-o", "out")
        assert result.exit_code == 0
        assert sorted(path.name for path in (here / "out").iterdir()) == [
            "badge.json",
            "badge.svg",
            "index.html",
            "lcov.info",
            "report.json",
            "report.md",
            "report.txt",
        ]
        assert "uncovered" in (here / "out" / "report.md").read_text()

    def test_with_results(self, here: Path) -> None:
        spec = load_spec(here / "spec")
        statement = next(spec.statements()).id
        found = results.Findings(
            tests={"a::b": results.Test("a::b", "passed")}, violations={"broken": {"a::b"}}
        )
        results.save(results.compose(spec, {statement: found}), here / "build" / "results.json")
        assert mmuspec("report", "-o", "out").exit_code == 0
        data = json.loads((here / "out" / "report.json").read_text())
        assert data["totals"]["proven"] == 1
        shown = mmuspec("explain", statement)
        assert shown.exit_code == 0
        assert "proven" in shown.stdout and "a::b" in shown.stdout

    def test_links_to_tests_lead_where_they_are_told(self, here: Path) -> None:
        statement = next(load_spec(here / "spec").statements()).id
        found = results.Findings(tests={"a.py::b": results.Test("a.py::b", "passed")})
        results.save(
            results.compose(load_spec(here / "spec"), {statement: found}), here / "build" / "results.json"
        )
        (here / "a.py").write_text("\ndef b(): pass\n")

        assert mmuspec("report", "-o", "build/out").exit_code == 0
        assert 'href="../../a.py#L2"' in (here / "build" / "out" / "index.html").read_text()
        address = "https://example.org/blob/v1/{path}#L{line}"
        assert mmuspec("report", "-o", "out", "--source-url", address).exit_code == 0
        assert 'href="https://example.org/blob/v1/a.py#L2"' in (here / "out" / "index.html").read_text()
        assert_refused(mmuspec("report", "-o", "out", "--source-url", "ftp://x"), "is no address")

    def test_a_baseline_says_what_changed(self, here: Path) -> None:
        assert mmuspec("report", "-o", "before").exit_code == 0
        self.test_with_results(here)

        result = mmuspec("report", "-o", "after", "--baseline", "before/report.json")

        assert result.exit_code == 0
        page = (here / "after" / "index.html").read_text()
        assert "Changed since the last report <b>1</b>" in page
        assert_refused(mmuspec("report", "--baseline", "no.json"), "cannot be read")

    def test_another_document_lends_its_words(self, here: Path) -> None:
        text = (here / "old.rst").read_text()
        (here / "newer.rst").write_text(text + "\nUnheard of before.\n")

        assert mmuspec("report", "-o", "out", "--doc", "newer.rst").exit_code == 0
        page = (here / "out" / "index.html").read_text()
        assert "Unheard of before." in page and "(not in the spec)" in page
        assert_refused(mmuspec("report", "--doc", "nowhere.rst"), "")

    def test_gaps_that_cannot_be_read(self, here: Path) -> None:
        (here / "spec" / "gaps.yaml").write_text("schema: 1\ngaps: [1]\n")
        assert_refused(mmuspec("report", "-o", "out"), "gaps.yaml:2: error: a mapping expected")
        assert mmuspec("check", "old.rst").exit_code == 0  # which they are no matter of

    def test_without_a_document_at_hand(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (here / "old.rst").unlink()
        result = mmuspec("report", "-o", "out")
        assert result.exit_code == 0
        assert "no document at hand" in result.stderr

    def test_foreign_results(self, here: Path) -> None:
        path = here / "build" / "results.json"
        path.parent.mkdir()
        path.write_text(
            '{"schema": 1, "document": {"release": "9", "sha256": "0"}, "kernels": [], "statements": []}'
        )
        assert_refused(mmuspec("report", "-o", "out"), "")
        assert not (here / "out").exists()

    def test_a_place_that_cannot_be_written(self, here: Path) -> None:
        assert_refused(mmuspec("report", "-o", "old.rst"), "cannot be written")
        assert (here / "old.rst").read_text() == GADGET

    def test_explain_names_the_nearest_id(self, here: Path) -> None:
        assert_refused(mmuspec("explain", "use_cuont"), "use_count")


def test_no_spec_says_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(mmuspec("check"), "mmuspec regen")


def test_control_c_leaves_what_was_there(here: Path) -> None:
    (here / "docs").mkdir()
    for number in range(300):
        (here / "docs" / f"{number}.rst").write_text(GADGET * 8)
    process = subprocess.Popen(
        [sys.executable, "-c", "from mmuspec.cli import main; main()", "extract", "docs", "-o", "out"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 30
    while not any((here / "out").glob("*.yaml")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "interrupted" in errors
    assert "Traceback" not in errors
    for path in (here / "out").iterdir():
        assert path.suffix == ".yaml"
        assert yaml.safe_load(path.read_text())["items"]
