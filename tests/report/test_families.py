"""Parametrized tests told as one."""

from mmuspec.report.families import Family, Sighting, Trial, families, sightings, trials
from mmuspec.results import Evidence
from mmuspec.results import Test as Tried

A = "conformance/test_gadget.py::test_turns"
B = "conformance/test_gadget.py::test_stops"


def test_cases_come_under_their_test() -> None:
    assert families([f"{A}[6.1-x]", B, f"{A}[6.12-[y]]"]) == (Family(A, ("6.1-x", "6.12-[y]")), Family(B, ()))


def test_node_ids_are_not_changed() -> None:
    given = [f"{A}[6.1-x]", f"{A}[6.12-[y]]", B, "a[b", "[c]"]
    assert sorted(m for family in families(given) for m in family.members) == sorted(given)


def test_one_case_is_shown_as_it_is_and_several_are_counted() -> None:
    assert str(families([f"{A}[6.1]"])[0]) == f"{A}[6.1]"
    assert str(families([f"{A}[6.1]", f"{A}[6.12]"])[0]) == f"{A} (2 cases)"
    assert str(families([B])[0]) == B


def test_outcomes_are_kept_apart() -> None:
    tests = [Tried(f"{A}[1]", "passed"), Tried(f"{A}[2]", "failed"), Tried(f"{A}[3]", "passed")]
    assert trials(tests) == (
        Trial("passed", False, Family(A, ("1", "3"))),
        Trial("failed", False, Family(A, ("2",))),
    )


def test_evidence_names_its_kernels_in_order() -> None:
    evidence = [
        Evidence("model", "6.12", f"{A}[6.12]"),
        Evidence("model", "6.1", f"{A}[6.1]"),
        Evidence("live", "6.1", "x"),
    ]
    assert sightings(evidence) == (
        Sighting("model", ("6.1", "6.12"), Family(A, ("6.12", "6.1"))),
        Sighting("live", ("6.1",), Family("x", ())),
    )
