"""`python -m benchmarks [WORD]...`: run the benchmarks, or those whose name has one of the words in it."""

import importlib
import json
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import benchmarks
from benchmarks.measure import BENCHMARKS, Measurement

OUT = Path("build/bench.json")


def main(words: Sequence[str]) -> int:
    """Measure, print, write."""
    for module in sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__)):
        if module.startswith("bench_"):
            importlib.import_module(f"benchmarks.{module}")
    chosen = [
        function
        for function in BENCHMARKS
        if not words or any(word in f"{function.__module__}.{function.__name__}" for word in words)
    ]
    if not chosen:
        names = ", ".join(function.__name__ for function in BENCHMARKS)
        print(f"error: no benchmark is named like that; there are: {names}", file=sys.stderr)  # noqa: T201
        return 2
    found: list[Measurement] = []
    errors = Console(stderr=True)
    for function in chosen:
        with errors.status(f"measuring {function.__name__} ..."):
            found.extend(function())
    Console().print(table(found))
    write(found, OUT)
    return 0


def table(found: Sequence[Measurement]) -> Table:
    """For people: under each figure, what it is compared with."""
    shown = Table("what", "value", "target", show_lines=True)
    shown.columns[0].overflow = "fold"  # the names of tests are long words
    for column in (1, 2):
        shown.columns[column].justify = "right"
    for one in found:
        what = escape(one.name)
        if one.peer:
            what += f"\n  {number(one.ratio)} times as good as {escape(one.peer)}: {number(one.peer_value)} {one.unit}"
        target = (
            "" if one.target is None else f"{number(one.target)}\n{'reached' if one.reached else 'missed'}"
        )
        shown.add_row(what, f"{number(one.value)}\n{one.unit}", target)
    return shown


def number(value: float | None) -> str:
    """Three digits that count, and no fewer than there are before the point."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def write(found: Sequence[Measurement], out: Path) -> None:
    """For programs; whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_suffix(".new")
    beside.write_text(json.dumps([one.as_json() for one in found], indent=1) + "\n", encoding="utf-8")
    beside.replace(out)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
