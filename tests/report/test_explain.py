"""A statement told in a terminal."""

from __future__ import annotations

import pytest

from mmuspec.errors import Problem
from mmuspec.explain import explain
from tests.report import scene

DOCUMENT = scene.gadget()
SPEC = scene.gadget_spec(DOCUMENT)
RUN = scene.gadget_run(SPEC)


def test_a_refuted_statement_is_told_whole() -> None:
    assert (
        explain(SPEC, RUN, DOCUMENT, scene.find(SPEC, "use_count"))
        == f"""\
{scene.find(SPEC, "use_count")}
✗ refuted: a statement that is stale or wrong, and a test with teeth shows it
Documentation/gadget.rst of Linux 6.12, line 49, in 'Slots'

Text
  use_count counts users.

Claim
  No, it counts owners.

Verdict
  wrong
  6.1: holds
  6.12: wrong
  Since 5.19.

Tests
  passed  conformance/test_gadget.py::test_count  (refutes)

Violations
  counts_users: killed by conformance/test_gadget.py::test_count

Evidence
  none
"""
    )


def test_lines_fit_a_terminal() -> None:
    for item in SPEC.items:
        told = explain(SPEC, None, None, item.id)
        assert all(len(line) <= 80 or " " not in line.strip() for line in told.splitlines())


def test_an_item_is_told_statement_by_statement() -> None:
    told = explain(SPEC, RUN, DOCUMENT, "state.level")

    first, second = (told.index(scene.find(SPEC, "state.level", n)) for n in (0, 1))
    assert first < second
    assert "killed by no test in these results" in told[second:]
    assert "live 6.12 recordings/6.12/levels.json" in told[:second]


def test_an_obsolete_statement_says_when_it_was_last_seen() -> None:
    told = explain(SPEC, RUN, DOCUMENT, SPEC.obsolete[0].statement.id)

    assert "obsolete: last seen in Linux 6.1" in told


def test_what_is_not_at_hand_is_said() -> None:
    told = explain(SPEC, None, None, scene.find(SPEC, "owner"))

    assert "Text\n  not at hand\n" in told
    assert "Note: No document at hand" in told
    assert "Note: No test results at hand" in told


@pytest.mark.parametrize(
    ("asked", "near"), [("state.levle", "state.level"), ("use_count/user-counts", "use_count/")]
)
def test_a_misspelt_id_names_the_nearest(asked: str, near: str) -> None:
    with pytest.raises(Problem, match=rf"no statement .* is called '{asked}'; did you mean '{near}"):
        explain(SPEC, RUN, DOCUMENT, asked)


def test_an_id_that_is_like_no_other_says_where_to_look() -> None:
    with pytest.raises(Problem, match="`mmuspec report` shows all"):
        explain(SPEC, RUN, DOCUMENT, "@@@@")
