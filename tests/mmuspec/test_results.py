"""Statuses, and results that merge."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mmuspec import results
from mmuspec.errors import Problem
from mmuspec.results import Evidence, Findings, Proof, Results
from mmuspec.spec import Verdict
from mmuspec.status import Status, status_of
from mmuspec.version import version_key
from tests.mmuspec.specs import ids, spec_of

PASSED, REFUTES, FAILED, SKIPPED = ("passed", False), ("passed", True), ("failed", False), ("skipped", False)


@pytest.mark.parametrize(
    ("verdict", "tests", "killed", "expected"),
    [
        (None, [], False, Status.UNCOVERED),
        (None, [SKIPPED], False, Status.UNCOVERED),
        (None, [("xfailed", False), ("xpassed", False)], True, Status.UNCOVERED),
        (None, [PASSED], False, Status.TESTED),
        (None, [PASSED], True, Status.PROVEN),
        (Verdict.HOLDS, [PASSED], True, Status.PROVEN),
        (Verdict.SCOPED, [PASSED, REFUTES], True, Status.PROVEN),
        (Verdict.HOLDS, [PASSED, FAILED], True, Status.FAILING),
        (Verdict.UNTESTABLE, [], False, Status.WAIVED),
        (Verdict.UNTESTABLE, [FAILED], False, Status.FAILING),
        (Verdict.WRONG, [REFUTES], True, Status.REFUTED),
        (Verdict.STALE, [REFUTES], True, Status.REFUTED),
        (Verdict.STALE, [REFUTES], False, Status.TESTED),
        (Verdict.STALE, [PASSED], True, Status.TESTED),
        (Verdict.HOLDS, [REFUTES], True, Status.TESTED),
    ],
)
def test_status(
    verdict: Verdict | None, tests: list[tuple[str, bool]], killed: bool, expected: Status
) -> None:
    assert status_of(verdict, tests, killed) is expected


SPEC = spec_of("Tower\n=====\n\nA slot holds one key.  It may turn.\n")
ONE, TWO = ids(SPEC)


def shard(statement_id: str, nodeid: str) -> Results:
    found = Findings(
        tests={nodeid: results.Test(nodeid, "passed")},
        violations={"broken": {nodeid}},
        evidence={Evidence("model", "6.12", nodeid)},
    )
    return results.compose(SPEC, {statement_id: found})


def test_shards_merge_in_any_order() -> None:
    shards = [shard(ONE, "a"), shard(TWO, "b"), shard(ONE, "c")]
    merged = results.merge(shards)
    assert merged.totals["proven"] == 2
    assert [t.nodeid for t in merged.statements[0].tests] == ["a", "c"]
    assert merged.statements[0].violations == (Proof("broken", ("a", "c")),)
    assert results.merge(shards[::-1]) == merged


def test_shards_of_different_documents_do_not() -> None:
    with pytest.raises(Problem, match="different documents"):
        results.merge([shard(ONE, "a"), replace(shard(TWO, "b"), sha256="0" * 64)])


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.json"
    results.save(shard(ONE, "a"), path)
    assert results.load([path]) == shard(ONE, "a")


def test_nothing_is_no_hundred_per_cent() -> None:
    empty = results.compose(SPEC, {})
    assert empty.totals == {s.value: 0 for s in Status} | {"uncovered": 2}


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"schema": 2}', "\x00", '{"schema": 1, "document": 3}', "[" * 9999]
)
def test_a_file_that_is_no_results(tmp_path: Path, content: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(Problem, match=r"results\.json: error: .*run the tests again"):
        results.load([path])


def test_foreign_types_inside(tmp_path: Path) -> None:
    data = results.as_json(shard(ONE, "a"))
    data["statements"][0]["status"] = "splendid"
    path = tmp_path / "results.json"
    path.write_text(json.dumps(data))
    with pytest.raises(Problem, match="splendid"):
        results.load([path])


def test_releases_are_ordered_by_number() -> None:
    assert sorted(["6.12", "6.2", "6.1", "6.12-rc1"], key=version_key) == ["6.1", "6.2", "6.12", "6.12-rc1"]
