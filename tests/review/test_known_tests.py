"""Tests of statements found in the text of the tests, with what the last run showed of them."""

from __future__ import annotations

from pathlib import Path

from mmuspec.results import Evidence, Results, StatementResult, Test
from mmuspec.review.known_tests import known_tests

SOURCE = """
import pytest

@pytest.mark.spec("a/one")
def test_one(): ...

@pytest.mark.spec("a/one", refutes=True)
@pytest.mark.spec("a/two", tier="model")
def test_both(): ...

class TestInside:
    @pytest.mark.spec("a/two", refutes=False)
    def test_two(self): ...

@pytest.mark.skip("a/one")
def test_none(): ...
"""


def suite(root: Path, source: str = SOURCE) -> Path:
    (root / "conformance").mkdir()
    (root / "conformance" / "test_a.py").write_text(source)
    return root


def test_marks_are_read_without_a_run(tmp_path: Path) -> None:
    found = known_tests(["a/one", "a/two", "a/three"], suite(tmp_path), None)
    assert found == {
        "a/one": (
            Test("conformance/test_a.py::test_one", ""),
            Test("conformance/test_a.py::test_both", "", refutes=True),
        ),
        "a/two": (
            Test("conformance/test_a.py::test_both", ""),
            Test("conformance/test_a.py::TestInside::test_two", ""),
        ),
    }


def test_a_run_has_outcomes_and_parameters(tmp_path: Path) -> None:
    ran = Test("conformance/test_a.py::test_one[6.1]", "passed")
    where = Evidence("model", "6.1", ran.nodeid)
    results = Results(
        "6.12", "0", ("6.1",), (StatementResult("a/one", 1, "A", tests=(ran,), evidence=(where,)),)
    )
    found = known_tests(["a/one"], suite(tmp_path), results)
    assert found["a/one"] == (ran, Test("conformance/test_a.py::test_both", "", refutes=True))


def test_a_broken_test_file_is_passed_over(tmp_path: Path) -> None:
    assert known_tests(["a/one"], suite(tmp_path, 'def "a/one"'), None) == {}


def test_no_tests_at_all(tmp_path: Path) -> None:
    assert known_tests(["a/one"], tmp_path, None) == {}
