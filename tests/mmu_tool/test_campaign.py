"""Campaigns: any order, lost workers, files of what has been done."""

import os
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from mmu_tool.campaign import CampaignError, Checkpoint, Result, all_cores, cluster, results


def square(number: int) -> Result:
    return {"square": number * number}


def die_once(directory: str, number: int) -> Result:
    """The process that gets item 3 first dies of it."""
    mark = Path(directory) / "died"
    if number == 3 and not mark.exists():
        mark.touch()
        os._exit(1)
    return square(number)


def die(number: int) -> Result:
    os._exit(1)


EXPECTED = {number: square(number) for number in range(20)}


@pytest.mark.parametrize("executor", [all_cores, lambda: ThreadPoolExecutor(3)], ids=["processes", "threads"])
def test_every_item_has_its_result(executor) -> None:  # type: ignore[no-untyped-def]
    assert dict(results(square, range(20), executor)) == EXPECTED


def test_a_process_that_dies_costs_nothing_but_time(tmp_path: Path) -> None:
    work = partial(die_once, str(tmp_path))
    found = list(results(work, range(20), lambda: ProcessPoolExecutor(2)))
    assert len(found) == 20
    assert dict(found) == EXPECTED


def test_processes_that_keep_dying_end_the_campaign() -> None:
    with pytest.raises(CampaignError, match="died 4 times"):
        list(results(die, range(2), lambda: ProcessPoolExecutor(1)))


def test_an_error_of_the_work_itself_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        list(results(lambda number: {"x": 1 // number}, [0], lambda: ThreadPoolExecutor(1)))


def slow_square(number: int) -> Result:
    time.sleep(0.2)
    return square(number)


def test_a_cluster_that_loses_a_worker() -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", processes=True, silence_logs=50
    ) as local:
        found = results(slow_square, range(20), cluster(local.scheduler_address))
        first = [next(found) for _ in range(3)]
        local.workers[0].process.process._process.kill()
        assert dict([*first, *found]) == EXPECTED


WHAT = {"campaign": "squares"}


def test_a_checkpoint_gives_back_what_was_added(tmp_path: Path) -> None:
    checkpoint: Checkpoint[int] = Checkpoint(tmp_path / "deep" / "file", WHAT)
    checkpoint.add(1, square(1))
    checkpoint.add(2, square(2))
    again: Checkpoint[int] = Checkpoint(tmp_path / "deep" / "file", WHAT)
    assert again.done == {1: square(1), 2: square(2)}
    again.add(3, square(3))
    assert Checkpoint(tmp_path / "deep" / "file", WHAT).done.keys() == {1, 2, 3}
    again.remove()
    again.remove()
    assert not (tmp_path / "deep" / "file").exists()


def test_a_torn_line_is_left_out_and_mended(tmp_path: Path) -> None:
    checkpoint: Checkpoint[int] = Checkpoint(tmp_path / "file", WHAT)
    for number in range(3):
        checkpoint.add(number, square(number))
    (tmp_path / "file").write_text((tmp_path / "file").read_text()[:-5])
    again: Checkpoint[int] = Checkpoint(tmp_path / "file", WHAT)
    assert again.done.keys() == {0, 1}
    again.add(2, square(2))
    assert Checkpoint(tmp_path / "file", WHAT).done == {number: square(number) for number in range(3)}


def test_results_of_something_else_are_not_taken(tmp_path: Path) -> None:
    Checkpoint[int](tmp_path / "file", {"campaign": "cubes"}).add(1, square(1))
    checkpoint: Checkpoint[int] = Checkpoint(tmp_path / "file", WHAT)
    assert checkpoint.done == {}
    checkpoint.add(2, square(2))
    assert Checkpoint(tmp_path / "file", WHAT).done.keys() == {2}


@pytest.mark.parametrize("contents", [b"", b"hello\n", b"\xff\xfe", b"[1]\n"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "file").write_bytes(contents)
    with pytest.raises(CampaignError, match="checkpoint"):
        Checkpoint(tmp_path / "file", WHAT)
    assert (tmp_path / "file").read_bytes() == contents


def test_no_scheduler() -> None:
    pytest.importorskip("distributed")
    with pytest.raises(CampaignError, match="no Dask scheduler at nowhere"):
        cluster("nowhere")
