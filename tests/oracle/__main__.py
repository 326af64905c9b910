"""``python -m tests.oracle``: compare the model with the emulator on many random cases, on all cores."""

from __future__ import annotations

import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mmu_tool.cases import answer
from tests.oracle.compare import Tally, Walker, minimize, run

_CHUNK = 1000
_SHOWN = 20


def _chunk(seed: int, first: int, count: int) -> Tally:
    return run(seed, range(first, first + count), answer)


def _leave_signals_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _campaign(seed: int, cases: int, jobs: int) -> Tally:
    tally = Tally()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with (
        ProcessPoolExecutor(jobs, initializer=_leave_signals_to_the_parent) as pool,
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task("oracle", total=cases)
        futures = {}
        for first in range(0, cases, _CHUNK):
            count = min(_CHUNK, cases - first)
            futures[pool.submit(_chunk, seed, first, count)] = count
        try:
            for future in as_completed(futures):
                tally.add(future.result())
                progress.advance(task, futures[future])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return tally


def report(tally: Tally, walker: Walker) -> None:
    """Print what was covered, and of each kind of disagreement the smallest case."""
    click.echo(f"{'mode':22} {'result':18} {'code':>6} {'cases':>9}")
    rows = sorted(tally.coverage.items(), key=lambda row: (*row[0][:2], row[0][2] or 0))
    for (mode, result, code), count in rows:
        click.echo(f"{mode:22} {result:18} {'' if code is None else hex(code):>6} {count:9,}")
    for reason, count in tally.left_out.items():
        click.echo(f"left out: {reason}: {count:,}")
    for group in list(tally.by_kind().values())[:_SHOWN]:
        click.echo(f"\n{len(group):,} times: {minimize(group[0], walker)}")
    click.echo(f"\n{tally.compared:,} cases compared, {len(tally.disagreements):,} disagreements")


@click.command()
@click.option("--cases", default=20_000, show_default=True, type=click.IntRange(min=1))
@click.option("--seed", default=1, show_default=True, type=int)
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True, type=click.IntRange(min=1))
def main(cases: int, seed: int, jobs: int) -> None:
    """Compare the model's walks with Unicorn's; exit 1 if they disagree, 2 if the emulator crashes."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        tally = _campaign(seed, cases, jobs)
    except BrokenProcessPool:
        click.echo(
            f"error: the emulator crashed on a case of seed {seed}; find it with --cases, --jobs 1", err=True
        )
        sys.exit(2)
    report(tally, answer)
    sys.exit(1 if tally.disagreements else 0)


if __name__ == "__main__":
    main()
