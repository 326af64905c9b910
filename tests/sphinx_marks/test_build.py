"""The extension in builds of a small project with the kernel's own page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mmuspec import results
from mmuspec.errors import Problem
from mmuspec.report import build
from mmuspec.results import Findings
from mmuspec.results import Test as Ran
from mmuspec.spec import Spec
from mmuspec.specfiles import load_spec, save_spec
from mmuspec.sphinx.known import known_of

SPEC = Path(__file__).parents[2] / "spec"
CONF = """\
project = "The Linux Kernel"
extensions = ["mmuspec.sphinx"]
mmuspec_spec = {spec!r}
mmuspec_results = "results.json"
mmuspec_report = "https://example.org/report.html"
"""


class Marks(HTMLParser):
    """The marks of a page: their attributes; and whatever scripts it has that are no files."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.marks: list[dict[str, str]] = []
        self.elements: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if "mmuspec-mark" in found.get("class", "").split():
            self.marks.append({"tag": tag, **found})
        self.elements.append(tag)


def ran(spec: Spec) -> results.Results:
    """A run in which every second statement has a passing test, and every fourth of them a violation."""
    found = {}
    for number, statement in enumerate(spec.statements()):
        if number % 2 == 0:
            violations = {"wrong": {"t.py::test"}} if number % 4 == 0 else {}
            refutes = statement.curated.verdict is not None and statement.curated.verdict.value in (
                "stale",
                "wrong",
            )
            found[statement.id] = Findings({"t.py::test": Ran("t.py::test", "passed", refutes)}, violations)
    return results.compose(spec, found)


@pytest.fixture
def project(tmp_path: Path, real_document: dict[str, str]) -> Path:
    """A project with mmu.rst of the spec's release where the kernel has it, and results of a run."""
    root = tmp_path / "project"
    page = root / "virt" / "kvm" / "x86" / "mmu.rst"
    page.parent.mkdir(parents=True)
    page.write_text(real_document["6.12"])
    (root / "index.rst").write_text("Kernel\n======\n\n.. toctree::\n\n   virt/kvm/x86/mmu\n   other\n")
    (root / "other.rst").write_text("Other\n=====\n\nA shadow page contains 512 sptes.\n")
    (root / "conf.py").write_text(CONF.format(spec=str(SPEC)))
    results.save(ran(load_spec(SPEC)), root / "results.json")
    return root


def sphinx(project: Path, builder: str = "html", *options: str) -> str:
    """Build; a warning is an error, but for what the kernel's page says itself. Gives what Sphinx said."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-b",
            builder,
            *options,
            str(project),
            str(project / "out" / builder),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr and "mmuspec" not in done.stderr
    return done.stdout


def page(project: Path, name: str = "virt/kvm/x86/mmu") -> str:
    return (project / "out" / "html" / f"{name}.html").read_text()


def test_every_statement_has_its_mark(project: Path) -> None:
    said = sphinx(project, "html", "-j", "2")

    spec = load_spec(SPEC)
    expected = build(spec, ran(spec)).dossiers
    assert f"mmuspec: marks in virt/kvm/x86/mmu: {len(expected)} of {len(expected)} statements" in said
    marks = Marks(page(project)).marks
    assert len(marks) == len(expected)
    by_name = {each["aria-label"].partition(": ")[2]: each for each in marks}
    for known in expected:
        mark = by_name[known.id]
        assert mark["tag"] == "a" and mark["href"].startswith("https://example.org/report.html#")
        assert f"mmuspec-{known.status.value}" in mark["class"].split()
        if known.claim:
            assert " ".join(known.claim.split()) in mark["title"]
    assert {each["class"].split()[1] for each in marks} > {
        "mmuspec-proven",
        "mmuspec-tested",
        "mmuspec-uncovered",
    }
    assert not Marks(page(project, "other")).marks
    assert (project / "out" / "html" / "_static" / "mmuspec.css").exists()
    assert "mmuspec.css" in page(project)


def without_marks(html: str) -> str:
    """The text of a page, less the signs."""

    class Words(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.words: list[str] = []
            self.inside = False

        def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.inside = "mmuspec-mark" in (dict(attrs).get("class") or "").split()

        def handle_endtag(self, _tag: str) -> None:
            self.inside = False

        def handle_data(self, data: str) -> None:
            if not self.inside:
                self.words.append(data)

    words = Words()
    words.feed(html)
    return " ".join("".join(words.words).split())


def test_without_results_the_page_is_as_without_the_extension_and_one_line_says_so(project: Path) -> None:
    sphinx(project)
    marked = page(project)
    (project / "results.json").unlink()

    said = sphinx(project)

    assert not Marks(page(project)).marks
    (line,) = (line for line in said.splitlines() if "mmuspec:" in line)
    assert "mmuspec: no marks in virt/kvm/x86/mmu: " in line and "results.json: error: cannot be read" in line
    assert without_marks(marked) == without_marks(page(project))


def test_marks_change_with_the_results(project: Path) -> None:
    sphinx(project)
    spec = load_spec(SPEC)
    nothing = results.compose(spec, {})
    results.save(nothing, project / "results.json")
    later = (project / "virt/kvm/x86/mmu.rst").stat().st_mtime + 100
    os.utime(project / "results.json", (later, later))

    sphinx(project)

    assert {each["class"].split()[1] for each in Marks(page(project)).marks} == {
        "mmuspec-uncovered", "mmuspec-waived"
    }  # fmt: skip


@pytest.mark.parametrize("builder", ["text", "latex", "gettext"])
def test_other_builders_have_the_page_as_it_was(project: Path, builder: str) -> None:
    sphinx(project, builder)

    suffix = {"text": ".txt", "latex": ".tex", "gettext": ".pot"}[builder]
    written = [*(project / "out" / builder).rglob(f"*{suffix}")]
    assert written
    for each in written:
        assert not {"✓", "◐", "○"} & set(each.read_text())


HOSTILE = '"><script>alert(1)</script>\u202e'


def test_hostile_claims_and_ids_are_text(project: Path, tmp_path: Path) -> None:
    """In the spec's claims; the ids of results have to be the spec's."""
    spec = tmp_path / "spec"
    known = load_spec(SPEC)
    items = tuple(
        replace(
            item,
            statements=tuple(
                replace(each, curated=replace(each.curated, claim=HOSTILE)) for each in item.statements
            ),
        )
        for item in known.items
    )
    save_spec(replace(known, items=items), spec)
    (project / "conf.py").write_text(CONF.format(spec=str(spec)))

    sphinx(project)

    html = page(project)
    assert "<script>alert" not in html and "\u202e" not in html
    hostile = [each for each in Marks(html).marks if "alert(1)" in each["title"]]
    assert hostile and all("⟨U+202E⟩" in each["title"] for each in hostile)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"schema": 1}', '{"schema": 99}', "\x00", "[" * 9999, '{"schema": 1, "document": 7}'],
)
def test_what_is_no_results_file_is_a_problem(project: Path, content: str) -> None:
    (project / "results.json").write_text(content)

    with pytest.raises(Problem, match=r"results\.json: error: "):
        known_of(SPEC, project / "results.json", project / "virt/kvm/x86/mmu.rst")


def test_what_is_no_document_is_a_problem(project: Path) -> None:
    (project / "binary.rst").write_bytes(b"\xff\xfe\x00")

    for name in ("binary.rst", "absent.rst", "virt"):
        with pytest.raises(Problem, match=f"{name}: error: cannot be read"):
            known_of(SPEC, project / "results.json", project / name)


def test_a_problem_turns_the_marks_off(project: Path) -> None:
    (project / "results.json").write_text("no results")

    said = sphinx(project)

    assert said.count("mmuspec: no marks in ") == 1
    assert not Marks(page(project)).marks


def test_a_spec_that_is_not_there_turns_the_marks_off(project: Path) -> None:
    (project / "conf.py").write_text(CONF.format(spec="nowhere"))

    assert sphinx(project).count("mmuspec: no marks in ") == 1


def test_a_document_that_moved_on_has_marks_where_its_words_are_the_same(project: Path) -> None:
    path = project / "virt/kvm/x86/mmu.rst"
    text = path.read_text()
    path.write_text(re.sub(r"contains(\s+)512(\s+)sptes", r"contains\g<1>1024\g<2>sptes", text))
    assert path.read_text() != text

    said = sphinx(project)

    total = len([*load_spec(SPEC).statements()])
    assert f"{total - 1} of {total - 1} statements" in said
