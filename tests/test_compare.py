"""The table of the model against the recordings."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from conformance import compare, recorded
from conformance.recorded import Case, Outcome, Verdict


def test_what_is_equal_is_told_so() -> None:
    result = CliRunner().invoke(compare.main, ["four-level", "efer-nx-off", "--kernel", "6.12"])

    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["tdp", "6.12", "direct", "6.12", "shadow", "6.12"],
        ["efer-nx-off", "~", "~", "="],
        ["four-level", "=", "=", "="],
        "tdp 6.12: 1 equal, 1 equal but for an excuse".split(),
        "direct 6.12: 1 equal, 1 equal but for an excuse".split(),
        "shadow 6.12: 2 equal".split(),
    ]


def test_what_differs_is_told_and_so_is_what_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = {"tdp": Outcome.DIFFERS, "direct": Outcome.FAILS, "shadow": Outcome.EQUAL}

    def verdicts(cases: list[Case]) -> list[Verdict]:
        lines = {"tdp": ("one", "two"), "direct": ("crash",), "shadow": ()}
        return [Verdict(case, outcomes[case.mmu], lines[case.mmu]) for case in cases]

    monkeypatch.setattr(compare, "_judge_all", verdicts)
    result = CliRunner().invoke(compare.main, ["four-level", "two-accesses", "--kernel", "6.1"])

    assert result.exit_code == 1
    assert [line.split() for line in result.stdout.splitlines()[1:3]] == [
        ["four-level", "2", "!", "="],
        ["two-accesses", "-", "-", "="],
    ]
    assert "four-level 6.1 tdp: one\nfour-level 6.1 direct: crash\n" in result.stdout
    assert "two\n" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(["nosuch"], "cannot read it"), (["two-accesses", "--mmu", "tdp"], "none of these scenarios")],
)
def test_nothing_to_compare(arguments: list[str], complaint: str) -> None:
    result = CliRunner().invoke(compare.main, arguments)

    assert result.exit_code == 2
    assert complaint in " ".join(result.stderr.split())


def test_a_recording_that_is_not_there_is_no_crash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    case = Case("four-level", "6.1", "tdp")
    recorded.scenario_named(case.scenario)
    monkeypatch.setattr(recorded, "FOLDER", tmp_path)

    verdict = recorded.judge(case)

    assert verdict.outcome is Outcome.FAILS
    assert "cannot read the recording" in verdict.lines[0]


def test_a_model_that_fails_is_told_with_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("no reason")

    monkeypatch.setattr(recorded, "run_scenario", broken)
    verdict = recorded.judge(Case("four-level", "6.1", "tdp"))

    assert verdict.outcome is Outcome.FAILS
    assert verdict.lines[0].startswith("ZeroDivisionError: no reason (test_compare.py:")
