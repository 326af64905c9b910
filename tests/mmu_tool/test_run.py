"""`mmu-model run`, and what ends a run before its time."""

import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mmu_model.snapshot import read_recording
from mmu_tool.cli import main

ROOT = Path(__file__).parents[2] / "conformance"
SCENARIOS = ROOT / "scenarios"

TEXT = """\
title: Two pages.
mode: 4-level
memory:
  1: {base: 2M, size: 1M}
tables:
  main:
    - {at: 0x40000000, to: 2M, count: 2}
steps:
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["run", *map(str, arguments)])


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    return tmp_path / "mine.yaml"


@pytest.mark.parametrize("mmu", ["tdp", "direct", "shadow"])
@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_it_prints_what_a_real_kernel_gave(kernel: str, mmu: str) -> None:
    result = run(SCENARIOS / "unsync.yaml", "--kernel", kernel, "--mmu", mmu)

    recorded = ROOT / "recordings" / kernel / mmu / "unsync.json.gz"
    assert result.exit_code == 0
    assert result.stdout == gzip.decompress(recorded.read_bytes()).decode()


def test_left_out_the_kernel_is_the_newest_and_the_mmu_the_scenarios_first() -> None:
    snapshot = json.loads(run(SCENARIOS / "two-accesses.yaml").stdout)["snapshots"][0]

    assert (snapshot["kernel"], snapshot["mmu"]) == ("6.12", "shadow")


@pytest.mark.parametrize("name", ["out.json", "out.json.gz"])
def test_it_writes_a_file_and_nothing_beside_it(tmp_path: Path, name: str) -> None:
    result = run(SCENARIOS / "mmio.yaml", "-o", tmp_path / name)

    assert (result.exit_code, result.output) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    if name.endswith(".gz"):
        assert read_recording(tmp_path / name).scenario == "mmio"
    else:
        assert json.loads((tmp_path / name).read_text())["scenario"] == "mmio"


@pytest.mark.parametrize(
    ("steps", "complaint"),
    [
        ("  - {read: 0x50000000}\n", ":9: error: the access faulted"),
        ("  - read: {at: 0x40000000, fault: true}\n", ":9: error: the access should fault and did not"),
    ],
)
def test_an_access_that_went_otherwise_than_meant(scenario: Path, steps: str, complaint: str) -> None:
    scenario.write_text(TEXT + steps)

    result = run(scenario)

    assert result.exit_code == 1
    assert complaint in result.stderr
    assert json.loads(result.stdout)["scenario"] == "mine"


@pytest.mark.parametrize(
    ("text", "options", "complaint"),
    [
        ("nothing: here\n", (), "error:"),
        (TEXT + "  - read: 0x40000000\nkinds: [shadow]\n", ("--mmu", "tdp"), ":1: error: this scenario does"),
        (TEXT + "  - get_dirty_log: 1\n", (), ":9: error: KVM refuses it: memory slot 1 has no dirty log"),
    ],
)
def test_what_cannot_be_run(scenario: Path, text: str, options: tuple[str, ...], complaint: str) -> None:
    scenario.write_text(text)

    result = run(scenario, *options)

    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(str(scenario))
    assert complaint in result.stderr
    assert "Traceback" not in result.output


def test_a_scenario_that_is_not_there(scenario: Path) -> None:
    result = run(scenario)

    assert result.exit_code == 2
    assert "cannot read it" in result.stderr


def test_a_guest_that_cannot_go_on(scenario: Path) -> None:
    """It clears the entry of its tables that leads to everything, its own code included."""
    scenario.write_text(TEXT + "  - write: {at: 0x40000, value: 0}\n  - cr3: main\n  - read: 0x40000000\n")

    result = run(scenario)

    assert result.exit_code == 2
    assert "error: the guest cannot go on" in result.stderr


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    result = run(SCENARIOS / "mmio.yaml", "-o", tmp_path / "file" / "out.json")

    assert result.exit_code == 2
    assert "error" in result.stderr
