"""Tests and violations are found in the checkout as it is, and nothing outside of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmuspec.errors import Problem
from mmuspec.report.code import Code, Place
from mmuspec.report.links import Links

SOURCE = '''\
import pytest

def test_one():
    """It is one.

    And more of it.
    """

class TestMany:
    @pytest.mark.slow
    def test_two(self):
        pass
'''


@pytest.fixture
def code(tmp_path: Path) -> Code:
    root = tmp_path / "root"
    (root / "tests").mkdir(parents=True)
    (root / "tests" / "test_a.py").write_text(SOURCE)
    (root / "broken.py").write_text("def test_one(:\n")
    (root / "notes.txt").write_text(SOURCE)
    (tmp_path / "outside.py").write_text(SOURCE)
    (root / "way_out.py").symlink_to(tmp_path / "outside.py")
    return Code(root)


def test_a_function_and_a_method_are_found_with_and_without_parameters(code: Code) -> None:
    assert code.test("tests/test_a.py::test_one[6.12-a::b]") == Place("tests/test_a.py", 3, "It is one.")
    assert code.test("tests/test_a.py::TestMany::test_two") == Place("tests/test_a.py", 11)


def test_a_violation_is_found_by_its_name_wherever_it_moved_to(code: Code) -> None:
    assert code.violation("test_one", "tests/test_a.py:99") == Place("tests/test_a.py", 3, "It is one.")


@pytest.mark.parametrize(
    "nodeid",
    [
        "tests/test_a.py::test_three", "tests/test_b.py::test_one", "broken.py::test_one", "notes.txt::test_one",
        "../outside.py::test_one", "way_out.py::test_one", "/etc/passwd::test_one", "\0::test_one", "", "tests::test_one",
        "x" * 5000 + "::test_one", "\ud800.py::test_one",
    ],
)  # fmt: skip
def test_what_is_not_there_has_no_place(code: Code, nodeid: str) -> None:
    assert code.test(nodeid) is None


def test_lines_and_files_are_those_of_the_checkout(code: Code) -> None:
    assert code.line("tests/test_a.py:7") == Place("tests/test_a.py", 7)
    assert code.file("notes.txt") == Place("notes.txt")
    assert (
        code.line("tests/test_a.py:many") is code.line("../outside.py:1") is code.file("way_out.py") is None
    )


def test_links_lead_from_the_page_to_the_checkout(tmp_path: Path) -> None:
    links = Links(tmp_path / "a root", tmp_path / "a root" / "build" / "report")

    assert links(Place("tests/test_a.py", 3)) == "../../tests/test_a.py#L3"
    assert Links(tmp_path / "a root", tmp_path)(Place("x#y.py")) == "a%20root/x%23y.py"


def test_links_lead_to_a_view_on_the_web(tmp_path: Path) -> None:
    links = Links(tmp_path, tmp_path, "https://example.org/p/blob/v1/{path}#L{line}")

    assert links(Place("tests/test_a.py", 3)) == "https://example.org/p/blob/v1/tests/test_a.py#L3"
    assert links(Place("tests/test_a.py")) == "https://example.org/p/blob/v1/tests/test_a.py"


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("javascript:alert(1)//{path}", "is no address of source files"),
        ("https://example.org/p", "is no address of source files"),
        ("https://example.org/{path}?{rev}", "{rev} is unknown"),
    ],
)
def test_a_template_that_leads_nowhere_is_refused(tmp_path: Path, template: str, complaint: str) -> None:
    with pytest.raises(Problem, match=complaint.replace("{", r"\{")):
        Links(tmp_path, tmp_path, template)
