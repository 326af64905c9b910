"""The access matrix: that it is complete, that the three answers agree, and that it would tell if they did
not."""

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mmu_model.hardware import (
    CR0_WP,
    Access,
    Kind,
    LinearPaging,
    Mode,
    PageFault,
    PhysicalMemory,
    Registers,
    batch,
    linear,
    permissions,
    walk,
)
from mmu_tool import campaign
from mmu_tool.cli import main
from mmu_tool.matrix import check, rules, run
from mmu_tool.matrix.combinations import BLOCKS, SEQUENCES, combinations, legal
from mmu_tool.matrix.scene import addresses, paging, tables

LAST = len(BLOCKS) - 1


def test_the_combinations_are_those_of_kvm_unit_tests() -> None:
    """19,169,280 for a processor with 40 physical-address bits and protection keys."""
    assert combinations(BLOCKS) == 19_169_280
    assert len(set(BLOCKS)) == len(BLOCKS)


@pytest.mark.parametrize("mode", [Mode.FOUR_LEVEL, Mode.FIVE_LEVEL], ids=lambda mode: mode.value)
@pytest.mark.parametrize("block", [0, LAST // 3, LAST])
def test_the_three_answers_agree(mode: Mode, block: int) -> None:
    result = check.check_block(mode.value, block)
    assert (result["disagreements"], result["described"]) == (0, [])
    assert result["combinations"] == len(legal(BLOCKS[block])) * len(SEQUENCES)


def test_one_single_walk_speaks_for_others_only_where_it_may() -> None:
    """Walk a sample of combinations for themselves, both accesses, each on tables of its own."""
    block = BLOCKS[LAST]
    processor = paging(Mode.FOUR_LEVEL, block)
    numbers = legal(block)
    memory = tables(Mode.FOUR_LEVEL, block.read_only, block.key)
    singles = check._Singles(memory, processor, numbers)
    for lane in np.random.default_rng(7).choice(len(numbers), 150, replace=False).tolist():
        sequence = SEQUENCES[lane % len(SEQUENCES)]
        said = singles.answers(sequence)
        own = memory.copy()
        for how in sequence:
            try:
                place, fault = (
                    walk(own, processor, how, int(addresses(numbers[lane : lane + 1])[0])).address,
                    -1,
                )
            except PageFault as raised:
                place, fault = 0, raised.error_code
        assert (said.fault[lane], said.address[lane]) == (fault, place)
        assert said.numbers[lane] == check._numbers_in(own)[numbers[lane]]


def without_wp(registers: Registers, access: Access, *, writable: bool, user: bool, executable: bool) -> bool:
    """A processor that lets nobody but users feel write protection."""
    wp_off = replace(registers, cr0=registers.cr0 & ~CR0_WP)
    return permissions.permitted(wp_off, access, writable=writable, user=user, executable=executable)


def test_a_wrong_processor_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "permitted", without_wp)
    result = check.check_block("4-level", LAST)
    assert result["disagreements"] > 1000
    assert "supervisor write" in result["described"][0]
    assert "rules: #PF 0x" in result["described"][0]


def test_a_batch_walk_that_is_wrong_once_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong_once(
        memory: PhysicalMemory, processor: LinearPaging, how: Access, where: object
    ) -> batch.Walks:
        walks = batch.walk_batch(memory, processor, how, where)  # type: ignore[arg-type]
        if how.kind is Kind.FETCH and how.user:
            walks.fault[12345] ^= 8
        return walks

    monkeypatch.setattr(check, "walk_batch", wrong_once)
    result = check.check_block("4-level", LAST)
    assert result["disagreements"] == 2, "the user fetch is made once alone and once after another access"


def test_accessed_flags_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(rules.Outcome):
        pass

    def outcome(block: object, how: Access, numbers: np.ndarray) -> rules.Outcome:
        right = rules.outcome(block, how, numbers)  # type: ignore[arg-type]
        return Forgetful(right.fault, right.large, numbers)

    monkeypatch.setattr(check, "rules", type("Rules", (), {"outcome": staticmethod(outcome), "OK": rules.OK}))
    assert check.check_block("4-level", 0)["disagreements"] > 0


def some_blocks(done: Path, executor: Callable[[], Executor] = lambda: ThreadPoolExecutor(1)) -> run.Summary:
    heard: list[int] = []
    checkpoint = run.checkpoint(done, Mode.FOUR_LEVEL)
    summary = run.run(
        Mode.FOUR_LEVEL, executor, checkpoint, lambda so_far: heard.append(so_far.blocks), range(3)
    )
    assert heard == sorted(heard)
    assert heard[-1] == 3
    return summary


def test_a_run_stopped_half_way_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = some_blocks(tmp_path / "a")
    real, calls = check.check_block, []

    def stopped(mode: str, number: int) -> campaign.Result:
        calls.append(number)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(mode, number)

    monkeypatch.setattr(run, "check_block", stopped)
    with pytest.raises(KeyboardInterrupt):
        some_blocks(tmp_path / "b")
    assert (tmp_path / "b").exists()
    assert some_blocks(tmp_path / "b") == whole
    assert sorted(calls) in ([0, 1, 2, 2], [0, 1, 1, 2, 2])
    assert not (tmp_path / "b").exists()


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command with a matrix of three blocks, run in this process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(run.run, "__defaults__", (range(3),))
    monkeypatch.setattr(campaign, "SCHEDULER_TIMEOUT", "0.5s")
    monkeypatch.setattr(campaign, "all_cores", lambda: ThreadPoolExecutor(1))


@pytest.mark.usefixtures("_small")
def test_the_command_says_what_came_out(monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(main, ["access-matrix"])
    assert result.exit_code == 0
    assert result.stdout.startswith("4-level paging: 405,504 combinations, 0 disagreements (")
    monkeypatch.setattr(linear, "permitted", lambda *args, **kwargs: True)
    result = CliRunner().invoke(main, ["access-matrix", "--paging", "5-level"])
    assert result.exit_code == 1
    assert "supervisor fetch" in result.stdout or "user read" in result.stdout


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--checkpoint", "FILE"], "is no checkpoint"),
        (["--checkpoint", "FILE/x"], "error: "),
        (["--scheduler", "tcp://127.0.0.1:1"], "error: no Dask scheduler at tcp://127.0.0.1:1"),
        (["--scheduler", "nonsense://"], "error: no Dask scheduler at nonsense://"),
    ],
)
def test_what_the_command_refuses(arguments: list[str], complaint: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("my thesis\n")
    arguments = [argument.replace("FILE", str(tmp_path / "file")) for argument in arguments]
    result = CliRunner().invoke(main, ["access-matrix", *arguments])
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert (tmp_path / "file").read_text() == "my thesis\n"


def test_the_command_runs_on_a_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(run.run, "__defaults__", (range(3),))
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", processes=False, silence_logs=50
    ) as local:
        arguments = ["--scheduler", local.scheduler_address, "--checkpoint", str(tmp_path / "checkpoint")]
        result = CliRunner().invoke(main, ["access-matrix", *arguments])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("4-level paging: 405,504 combinations, 0 disagreements (")
