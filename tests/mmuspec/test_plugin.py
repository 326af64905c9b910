"""The pytest plugin, in runs of its own: marks, results, proofs, and all that can be wrong with them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from mmuspec.merge import bare
from mmuspec.specfiles import save_spec
from tests.mmuspec.specs import document, ids

pytest_plugins = ["pytester"]

SOURCE = "Tower\n=====\n\nslots\n-----\n\nA slot holds one key.  It may turn.\n\nIt never wakes.\n"
HOLDS, TURNS, WAKES = ids(bare(document(SOURCE)))

CONFTEST = """
    import contextlib, pytest
    from mmuspec.violations import violates
    import model

    @pytest.fixture(params=["6.1", "6.12"])
    def kernel(request):
        return request.param

    class Broken:
        def __init__(self): self.undo = pytest.MonkeyPatch()
        def replace(self, name, value): self.undo.setattr(model, name, value)

    def pytest_mmuspec_violate(violation):
        @contextlib.contextmanager
        def broken():
            model_to_break = Broken()
            violation.apply(model_to_break)
            try:
                yield
            finally:
                model_to_break.undo.undo()
        return broken()
"""
VIOLATION = f"""
    @violates("{HOLDS}")
    def two_keys(model):
        "A slot holds two."
        model.replace("keys", lambda: 2)
"""
TESTS = f"""
    import pytest, model

    @pytest.mark.spec("{HOLDS}")
    def test_one_key(kernel):
        assert model.keys() == 1

    @pytest.mark.spec("{TURNS}", refutes=True)
    def test_it_stands_still():
        assert not model.turns()

    def test_of_nothing_in_particular():
        assert True
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """A conformance suite in small: a model, a spec, tests, one violation."""
    pytester.makeini("[pytest]\npythonpath = .\n")
    pytester.makepyfile(model="def keys(): return 1\ndef turns(): return False\ndef wakes(): return False\n")
    save_spec(bare(document(SOURCE)), pytester.path / "spec")
    pytester.makeconftest(CONFTEST + VIOLATION)
    pytester.makepyfile(test_tower=TESTS)
    return pytester


def results(suite: pytest.Pytester) -> dict[str, Any]:
    return json.loads((suite.path / "build" / "results.json").read_text())  # type: ignore[no-any-return]


def statement(suite: pytest.Pytester, statement_id: str) -> dict[str, Any]:
    return next(s for s in results(suite)["statements"] if s["id"] == statement_id)


def edit(suite: pytest.Pytester, name: str, old: str, new: str) -> None:
    path = suite.path / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def verdict(suite: pytest.Pytester, statement_id: str, verdict: str) -> None:
    """Say a verdict of a statement, as a curator would."""
    path = suite.path / "spec" / "slots.yaml"
    text = path.read_text()
    text = re.sub(
        rf"(  - id: {re.escape(statement_id)}\n(?:    .*\n)*?)    since: new\n", rf"\1    {verdict}\n", text
    )
    assert verdict in text
    path.write_text(text)


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_results_are_the_same_with_and_without_xdist(
    suite: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    run = suite.runpytest_subprocess("--prove", *workers)
    run.assert_outcomes(passed=4)
    data = results(suite)
    assert data["schema"] == 1
    assert data["document"]["release"] == "1"
    assert data["kernels"] == ["6.1", "6.12"]
    assert (
        data["totals"]["proven"] == 1 and data["totals"]["tested"] == 1 and data["totals"]["uncovered"] == 1
    )
    held = statement(suite, HOLDS)
    killers = ["test_tower.py::test_one_key[6.12]", "test_tower.py::test_one_key[6.1]"]
    assert held["status"] == "proven"
    assert sorted(held["violations"][0].pop("killed_by")) == sorted(killers)
    assert held["violations"] == [{"name": "two_keys"}]
    assert sorted(t["nodeid"] for t in held["tests"]) == sorted(killers)
    assert {(e["tier"], e["kernel"]) for e in held["evidence"]} == {("model", "6.1"), ("model", "6.12")}
    assert statement(suite, TURNS)["tests"][0]["refutes"] is True


def test_a_killed_violation_tells_by_what_assertion(suite: pytest.Pytester) -> None:
    suite.runpytest_subprocess("--prove")
    line = (suite.path / "test_tower.py").read_text().split("\n").index("    assert model.keys() == 1") + 1
    deaths = statement(suite, HOLDS)["deaths"]

    assert [(d["violation"], d["test"], d["where"]) for d in deaths] == [
        ("two_keys", "test_tower.py::test_one_key[6.12]", f"test_tower.py:{line}"),
        ("two_keys", "test_tower.py::test_one_key[6.1]", f"test_tower.py:{line}"),
    ]
    assert deaths[0]["assertion"].startswith("assert 2 == 1")
    assert " at 0x" not in deaths[0]["assertion"]
    declared = (suite.path / "conftest.py").read_text().split("@violates")[0].count("\n") + 1
    assert results(suite)["declared"] == {"two_keys": f"conftest.py:{declared}"}


def test_the_summary_is_a_table_of_sections(suite: pytest.Pytester) -> None:
    run = suite.runpytest_subprocess("--prove")
    run.stdout.fnmatch_lines(["statements*proven*tested*uncovered*", "slots * 1 * 1 *", "all * 1 * 1 *"])


def test_without_prove_a_test_is_only_tested(suite: pytest.Pytester) -> None:
    suite.runpytest_subprocess().assert_outcomes(passed=4)
    assert statement(suite, HOLDS)["status"] == "tested"
    assert statement(suite, HOLDS)["violations"] == [{"name": "two_keys", "killed_by": []}]


def test_a_run_without_marks_writes_nothing(suite: pytest.Pytester) -> None:
    suite.runpytest_subprocess("-k", "nothing").assert_outcomes(passed=1, deselected=3)
    edit(suite, "test_tower.py", "@pytest.mark.spec", "# ")
    (suite.path / "build" / "results.json").unlink()
    suite.runpytest_subprocess().assert_outcomes(passed=4)
    assert not (suite.path / "build" / "results.json").exists()


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_a_misspelt_id_fails_collection(suite: pytest.Pytester, workers: tuple[str, ...]) -> None:
    edit(suite, "test_tower.py", HOLDS, HOLDS + "x")
    run = suite.runpytest_subprocess(*workers)
    assert run.ret != 0
    run.stdout.fnmatch_lines(
        [f"*test_tower.py:*: error: test_one_key: no statement has the id {HOLDS}x; did you mean {HOLDS}?"]
    )


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("spec()", "the mark spec takes one id"),
        ("spec(7)", "the mark spec takes one id"),
        (f'spec("{HOLDS}", refute=True)', "the mark spec knows no refute"),
        (f'spec("{HOLDS}", tier="hearsay")', "tier 'hearsay' is none of model, oracle, live"),
    ],
)
def test_a_mark_that_is_none(suite: pytest.Pytester, mark: str, message: str) -> None:
    edit(suite, "test_tower.py", f'spec("{HOLDS}")', mark)
    run = suite.runpytest_subprocess()
    assert run.ret != 0
    run.stdout.fnmatch_lines([f"*error: *{message}*"])


def test_a_broken_spec_fails_collection_with_its_line(suite: pytest.Pytester) -> None:
    edit(suite, "spec/slots.yaml", "kind: paragraph", "kind: essay")
    run = suite.runpytest_subprocess()
    assert run.ret != 0
    run.stdout.fnmatch_lines(["*slots.yaml:*: error: 'essay' is none of*"])
    run.stdout.no_fnmatch_line("*Traceback*")


def assert_error(suite: pytest.Pytester, message: str, *arguments: str) -> None:
    """The run fails though every test of it passes."""
    run = suite.runpytest_subprocess(*arguments)
    run.assert_outcomes(passed=4)
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    run.stdout.fnmatch_lines([f"*error: {message}"])


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_a_violation_that_nobody_notices(suite: pytest.Pytester, workers: tuple[str, ...]) -> None:
    edit(suite, "conftest.py", "lambda: 2", "lambda: 1")
    message = f"two_keys: no test of {HOLDS} fails on this wrong model (2 tried)"
    assert_error(suite, message, "--prove", *workers)
    assert statement(suite, HOLDS)["status"] == "tested"


def test_a_crash_is_no_proof(suite: pytest.Pytester) -> None:
    edit(suite, "conftest.py", "lambda: 2", "lambda: 1 / 0")
    assert_error(suite, "two_keys: a crash is no proof; *ZeroDivisionError*", "--prove")
    assert statement(suite, HOLDS)["status"] == "tested"


def test_an_assertion_inside_of_what_is_tested_is_no_proof(suite: pytest.Pytester) -> None:
    edit(suite, "conftest.py", "lambda: 2", "__import__('model').lost_keys")
    with suite.path.joinpath("model.py").open("a") as model:
        model.write("\ndef lost_keys(): assert not keys\n")
    assert_error(suite, "two_keys: a crash is no proof; *AssertionError*", "--prove")


def test_a_failure_that_the_suite_is_the_cause_of_is_proof(suite: pytest.Pytester) -> None:
    edit(
        suite,
        "test_tower.py",
        "assert model.keys() == 1",
        "model.explore(lambda: looks())\n\ndef looks():\n    assert model.keys() == 1",
    )
    with suite.path.joinpath("model.py").open("a") as model:
        model.write(
            "\ndef explore(check):\n"
            "    try: check()\n"
            "    except Exception as error: raise ValueError('in some order') from error\n"
        )
    suite.runpytest_subprocess("--prove").assert_outcomes(passed=4)
    assert statement(suite, HOLDS)["status"] == "proven"


def test_to_list_the_tests_leaves_the_results_alone(suite: pytest.Pytester) -> None:
    suite.runpytest_subprocess("--prove").assert_outcomes(passed=4)
    suite.runpytest_subprocess("--collect-only")
    assert statement(suite, HOLDS)["status"] == "proven"


def test_a_violation_that_never_ends(suite: pytest.Pytester) -> None:
    edit(suite, "conftest.py", "lambda: 2", "lambda: any(0 for _ in iter(int, 1))")
    assert_error(
        suite, "two_keys: a crash is no proof; *no end after 0.5 s*", "--prove", "--prove-seconds=0.5"
    )


def test_a_violation_that_itself_fails(suite: pytest.Pytester) -> None:
    edit(suite, "conftest.py", 'replace("keys"', 'replace("kees"')
    assert_error(suite, "two_keys: a crash is no proof; *kees*", "--prove")


def test_a_violation_of_a_statement_without_tests(suite: pytest.Pytester) -> None:
    edit(suite, "conftest.py", HOLDS, WAKES)
    assert_error(suite, f"two_keys: {WAKES} has no test that could notice it", "--prove")


def test_a_violation_of_a_dead_id(suite: pytest.Pytester) -> None:
    edit(suite, "conftest.py", HOLDS, HOLDS + "x")
    assert_error(
        suite, f"two_keys violates {HOLDS}x, which no statement has as its id; did you mean {HOLDS}[?]"
    )


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("verdict: holds", "the verdict holds has no test"),
        ("verdict: stale", "the verdict stale has no refuting test"),
    ],
)
def test_a_verdict_without_its_evidence(suite: pytest.Pytester, wanted: str, message: str) -> None:
    verdict(suite, WAKES, wanted)
    assert_error(suite, f"{WAKES}: {message}")
    suite.runpytest_subprocess().stdout.re_match_lines([rf".*spec/slots\.yaml:\d+: error: {WAKES}: .*"])
    run = suite.runpytest_subprocess("-k", "one_key")
    assert run.ret == 0


def test_a_refuted_statement_is_proven_in_the_same_way(suite: pytest.Pytester) -> None:
    verdict(suite, TURNS, "verdict: wrong")
    suite.runpytest_subprocess("--prove").assert_outcomes(passed=4)
    assert statement(suite, TURNS)["status"] == "tested"
    with (suite.path / "conftest.py").open("a") as file:
        file.write(
            f'\n@violates("{TURNS}")\ndef it_turns(model):\n    model.replace("turns", lambda: True)\n'
        )
    suite.runpytest_subprocess("--prove").assert_outcomes(passed=4)
    assert statement(suite, TURNS)["status"] == "refuted"


@pytest.mark.parametrize(
    ("line", "outcome"),
    [
        ("pytest.skip('not today')", "skipped"),
        ("pytest.xfail('known')", "xfailed"),
        ("assert model.keys() == 3", "failed"),
        ("raise OSError", "failed"),
    ],
)
def test_only_a_test_that_passed_counts(suite: pytest.Pytester, line: str, outcome: str) -> None:
    edit(suite, "test_tower.py", "assert model.keys() == 1", line)
    suite.runpytest_subprocess("--prove")
    found = statement(suite, HOLDS)
    assert {t["outcome"] for t in found["tests"]} == {outcome}
    assert found["status"] == ("failing" if outcome == "failed" else "uncovered")
    assert found["evidence"] == []
    assert found["violations"][0]["killed_by"] == []


def test_a_test_that_fails_anyway_kills_nothing(suite: pytest.Pytester) -> None:
    edit(suite, "test_tower.py", "assert model.keys() == 1", "assert False")
    run = suite.runpytest_subprocess("--prove")
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    assert statement(suite, HOLDS)["violations"][0]["killed_by"] == []


def test_what_was_seen_elsewhere_is_evidence(suite: pytest.Pytester) -> None:
    edit(
        suite,
        "test_tower.py",
        "def test_one_key(kernel):",
        "def test_one_key(kernel, seen):\n    seen('live', kernel, f'recordings/{kernel}.json')",
    )
    suite.runpytest_subprocess().assert_outcomes(passed=4)
    evidence = statement(suite, HOLDS)["evidence"]
    assert {"tier": "live", "kernel": "6.12", "where": "recordings/6.12.json"} in evidence


def test_what_was_recorded_is_not_run_on_wrong_models(suite: pytest.Pytester) -> None:
    edit(suite, "conftest.py", f'@violates("{HOLDS}")', f'@violates("{HOLDS}", "{TURNS}")')
    edit(suite, "test_tower.py", f'"{TURNS}", refutes=True', f'"{TURNS}", tier="live"')
    edit(suite, "test_tower.py", "assert not model.turns()", "open('runs', 'a').write('.')")
    suite.runpytest_subprocess("--prove")
    assert (suite.path / "runs").read_text() == "."
    assert statement(suite, TURNS)["evidence"][0]["tier"] == "live"
    assert statement(suite, TURNS)["status"] == "tested"


def test_results_can_be_written_elsewhere(suite: pytest.Pytester, tmp_path: Path) -> None:
    suite.runpytest_subprocess(f"--spec-results={tmp_path}/shard.json").assert_outcomes(passed=4)
    assert (tmp_path / "shard.json").exists()
    assert not (suite.path / "build").exists()


def test_results_that_cannot_be_written_are_an_error(suite: pytest.Pytester) -> None:
    (suite.path / "build").write_text("in the way")
    run = suite.runpytest_subprocess()
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    run.stdout.fnmatch_lines(["*build*: error: cannot be written*"])


ATTACHING = f"""
    import pytest, model

    PICTURE = b'<svg xmlns="http://www.w3.org/2000/svg"/>'

    @pytest.mark.spec("{HOLDS}")
    def test_one_key(attach):
        attach("a key", "image/svg+xml", PICTURE, "one key")
        assert model.keys() == 1

    @pytest.mark.spec("{TURNS}", refutes=True)
    def test_it_stands_still(attach):
        attach("a slot", "image/svg+xml", PICTURE, "a slot")
        assert model.turns()
"""


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_pictures_of_tests_that_passed_are_in_the_results_once(
    suite: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    """Not those of a test that failed, nor those of runs on a wrong model."""
    suite.makepyfile(test_tower=ATTACHING)

    suite.runpytest_subprocess("--prove", *workers).assert_outcomes(passed=1, failed=1)

    data = results(suite)
    shown = {each["id"]: each["pictures"] for each in data["statements"]}
    (key,) = (each["id"] for each in data["attachments"] if each["name"] == "a key")
    assert shown == {
        HOLDS: [{"nodeid": "test_tower.py::test_one_key", "attachment": key}],
        TURNS: [],
        WAKES: [],
    }


def test_what_cannot_be_shown_fails_the_test_that_attached_it(suite: pytest.Pytester) -> None:
    edit(suite, "test_tower.py", "def test_it_stands_still():", "def test_it_stands_still(attach):")
    edit(suite, "test_tower.py", "assert not model.turns()", "attach('a', 'text/html', b'b', 'c')")

    run = suite.runpytest_subprocess()

    run.stdout.fnmatch_lines(["*attachment of type 'text/html', none of image/svg+xml, image/png*"])


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "xdist"])
def test_junit_has_the_statements_of_each_test(suite: pytest.Pytester, workers: tuple[str, ...]) -> None:
    """As properties; nothing else of ours is in the file, and a test that was proven is in it once."""
    suite.runpytest_subprocess("--prove", "--junitxml", "junit.xml", *workers)

    cases = ElementTree.parse(suite.path / "junit.xml").getroot().iter("testcase")
    found = sorted(
        (case.get("name"), [(each.get("name"), each.get("value")) for each in case.iter("property")])
        for case in cases
    )
    assert found == [
        ("test_it_stands_still", [("mmuspec.refutes", TURNS)]),
        ("test_of_nothing_in_particular", []),
        ("test_one_key[6.12]", [("mmuspec.statement", HOLDS)]),
        ("test_one_key[6.1]", [("mmuspec.statement", HOLDS)]),
    ]
