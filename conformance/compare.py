"""How far the model equals real kernels: python -m conformance.compare [SCENARIO...].

A line for each scenario, a column for each kernel and MMU: `=` equal, `~` equal but for an excuse (excuses.py),
a number how many lines differ, `!` the model fails, `-` not recorded. Below stand the differences.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import click

from conformance.recorded import Case, Outcome, Verdict, cases, judge
from mmu_model.kernels import KERNELS
from mmu_model.scenario import ScenarioError
from mmu_model.snapshot import MmuKind
from mmu_tool.progress import progress_bar

MMUS = tuple(mmu.value for mmu in MmuKind)
MARKS = {Outcome.EQUAL: "=", Outcome.EXCUSED: "~", Outcome.FAILS: "!"}
CELL = 12


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--kernel", type=click.Choice(list(KERNELS)), help="This kernel only.")
@click.option("--mmu", type=click.Choice(MMUS), help="This MMU only.")
@click.option("-n", "--lines", default=1, show_default=True, help="Differences to show of each case; 0: all.")
@click.argument("scenarios", nargs=-1, metavar="[SCENARIO]...")
def main(kernel: str | None, mmu: str | None, lines: int, scenarios: tuple[str, ...]) -> None:
    """Compare the model with the recordings; exit status 1 if something is not equal."""
    try:
        wanted = [
            case for case in cases(scenarios) if kernel in (None, case.kernel) and mmu in (None, case.mmu)
        ]
    except ScenarioError as error:
        raise click.UsageError(str(error)) from None
    if not wanted:
        raise click.UsageError("none of these scenarios runs on that kernel with that MMU")
    verdicts = _judge_all(wanted)
    for line in _table(verdicts):
        click.echo(line)
    for verdict in verdicts:
        for line in verdict.lines[: lines or None]:
            click.echo(f"{verdict.case}: {line}")
    for line in _counts(verdicts):
        click.echo(line)
    raise SystemExit(any(verdict.lines for verdict in verdicts))


def _judge_all(wanted: list[Case]) -> list[Verdict]:
    verdicts: list[Verdict] = []
    with ProcessPoolExecutor(os.cpu_count()) as pool, progress_bar("comparison", len(wanted)) as advance_to:
        for verdict in pool.map(judge, wanted, chunksize=4):
            verdicts.append(verdict)
            advance_to(len(verdicts))
    return verdicts


def _table(verdicts: list[Verdict]) -> Iterator[str]:
    cells = {(v.case.scenario, v.case.mmu, v.case.kernel): _cell(v) for v in verdicts}
    names = sorted({v.case.scenario for v in verdicts})
    columns = _columns(verdicts)
    width = max(map(len, names))
    yield " " * width + "".join(f"{mmu + ' ' + kernel:>{CELL}}" for mmu, kernel in columns)
    for name in names:
        yield f"{name:{width}}" + "".join(f"{cells.get((name, *column), '-'):>{CELL}}" for column in columns)


def _cell(verdict: Verdict) -> str:
    return MARKS.get(verdict.outcome, str(len(verdict.lines)))


def _counts(verdicts: list[Verdict]) -> Iterator[str]:
    for mmu, kernel in _columns(verdicts):
        count = Counter(v.outcome for v in verdicts if (v.case.mmu, v.case.kernel) == (mmu, kernel))
        yield f"{mmu} {kernel}: " + ", ".join(
            f"{count[each]} {each.value}" for each in Outcome if count[each]
        )


def _columns(verdicts: list[Verdict]) -> list[tuple[str, str]]:
    found = {(v.case.mmu, v.case.kernel) for v in verdicts}
    return [(mmu, kernel) for mmu in MMUS for kernel in KERNELS if (mmu, kernel) in found]


if __name__ == "__main__":
    main()
