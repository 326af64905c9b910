"""How far the model equals real kernels: python -m conformance.compare [SCENARIO...].

A line for each scenario, a column for each kernel and MMU: `=` equal, `~` equal but for an excuse (excuses.py),
a number how many lines differ, `!` the model fails, `-` not recorded. Below stand the differences.
"""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import click

from conformance.recorded import Outcome, Verdict, cases, judge


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--kernel", help="This kernel only.")
@click.option("--mmu", help="This MMU only.")
@click.option("-n", "--lines", default=1, show_default=True, help="Differences to show of each case; 0: all.")
@click.argument("scenarios", nargs=-1, metavar="[SCENARIO]...")
def main(kernel: str | None, mmu: str | None, lines: int, scenarios: tuple[str, ...]) -> None:
    """Compare the model with the recordings; exit status 1 if something is not equal."""
    wanted = [
        case
        for case in cases(scenarios)
        if case.kernel in (kernel or case.kernel) and case.mmu == (mmu or case.mmu)
    ]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        verdicts = list(pool.map(judge, wanted, chunksize=4))
    columns = sorted({(v.case.mmu, v.case.kernel) for v in verdicts}, key=lambda c: (c[0] != "tdp", c))
    by_case = {(v.case.scenario, v.case.mmu, v.case.kernel): v for v in verdicts}
    width = max(len(case.scenario) for case in wanted)
    click.echo(" " * width + "".join(f" {m + ' ' + k:>12}" for m, k in columns))
    for name in sorted({case.scenario for case in wanted}):
        cells = (_cell(by_case.get((name, *column))) for column in columns)
        click.echo(f"{name:{width}}" + "".join(f" {cell:>12}" for cell in cells))
    for verdict in verdicts:
        for line in verdict.lines[: lines or None]:
            click.echo(f"{verdict.case}: {line}")
    for column in columns:
        count = Counter(v.outcome for v in verdicts if (v.case.mmu, v.case.kernel) == column)
        click.echo(f"{column[0]} {column[1]}: " + ", ".join(f"{count[o]} {o.value}" for o in Outcome))
    raise SystemExit(any(verdict.lines for verdict in verdicts))


def _cell(verdict: Verdict | None) -> str:
    if verdict is None:
        return "-"
    return {Outcome.EQUAL: "=", Outcome.EXCUSED: "~", Outcome.FAILS: "!"}.get(
        verdict.outcome, str(len(verdict.lines))
    )


if __name__ == "__main__":
    main()
