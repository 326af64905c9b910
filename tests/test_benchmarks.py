"""The frame of the benchmarks: what it computes, prints and writes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import measure
from benchmarks.measure import Measurement


@pytest.mark.parametrize(
    ("unit", "value", "target", "peer_value", "ratio", "reached"),
    [
        ("walks/s", 200.0, 100.0, 50.0, 4.0, True),
        ("walks/s", 90.0, 100.0, None, None, False),
        ("s", 5.0, 20.0, 10.0, 2.0, True),
        ("s", 30.0, 20.0, 10.0, 1 / 3, False),
        ("MiB", 3.0, None, None, None, None),
    ],
)
def test_rates_are_better_high_and_the_rest_low(
    unit: str,
    value: float,
    target: float | None,
    peer_value: float | None,
    ratio: float | None,
    reached: bool | None,
) -> None:
    one = Measurement("x", value, unit, target, "y" if peer_value else None, peer_value)
    assert (one.ratio, one.reached) == (ratio, reached)


def test_a_rate_counts_what_is_done_in_a_second() -> None:
    assert 0 < measure.rate(lambda: sum(range(100_000)), 10) < 10 * 1e7


def canned() -> Iterator[Measurement]:
    yield Measurement("walks [of a kind]", 123456.0, "walks/s", 150_000, "a snail", 2.0)


def test_the_command_prints_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "BENCHMARKS", [canned])
    assert command.main(["canned"]) == 0
    assert json.loads((tmp_path / "build" / "bench.json").read_text()) == [
        {
            "name": "walks [of a kind]",
            "value": 123456.0,
            "unit": "walks/s",
            "target": 150_000,
            "peer": "a snail",
            "peer_value": 2.0,
            "ratio": 61728.0,
        }
    ]
    assert [file.name for file in (tmp_path / "build").iterdir()] == ["bench.json"]
    printed = capsys.readouterr().out
    assert "walks [of a kind]" in printed
    assert "missed" in printed


def test_a_word_that_names_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["no such thing"]) == 2
    assert "single_walks" in capsys.readouterr().err
