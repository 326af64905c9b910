"""The command ``kvm-live``."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mmu_model.scenario import Scenario, ScenarioError, read_scenario
from mmu_model.scenario.schema import KERNELS
from mmu_model.snapshot import MmuKind, RecordingError

from .compare import compare
from .errors import LiveError
from .kernels import EXPLANATIONS, explain
from .record import plan, record

CONFORMANCE = Path(__file__).resolve().parents[2] / "conformance"
ALL = "all"


class _Commands(click.Group):
    """A group whose commands end with 2 and one line on standard error when something is wrong."""

    def invoke(self, ctx: click.Context) -> Any:
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            return super().invoke(ctx)
        except (ScenarioError, RecordingError, LiveError) as error:
            text = str(error)
            click.echo(text if ": error: " in text else f"kvm-live: error: {text}", err=True)
        except OSError as error:
            click.echo(f"kvm-live: error: {error.filename or 'system'}: {error.strerror}", err=True)
        except KeyboardInterrupt:
            click.echo("kvm-live: error: interrupted", err=True)
        raise SystemExit(2)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Runs scenarios on real kernels, records what KVM's MMUs build, and compares recordings."""


@main.command("record")
@click.option("--kernel", type=click.Choice([*KERNELS, ALL]), default=ALL, help="Series of the kernel.")
@click.option("--mmu", type=click.Choice([*(kind.value for kind in MmuKind), ALL]), default=ALL)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=CONFORMANCE / "recordings",
    help="Folder for KERNEL/MMU/SCENARIO.json.gz; left out, the project's recordings.",
)
@click.argument("scenarios", nargs=-1, metavar="[SCENARIO]...")
def record_command(kernel: str, mmu: str, output: Path, scenarios: tuple[str, ...]) -> None:
    """Records SCENARIOs (files, or names of the project's; none: all) on real kernels."""
    kernels = KERNELS if kernel == ALL else (kernel,)
    mmus = tuple(MmuKind) if mmu == ALL else (MmuKind(mmu),)
    read = [read_scenario(path) for path in _find(scenarios)]
    if scenarios:
        _require(read, kernels if kernel != ALL else (), mmus if mmu != ALL else ())
    boots = plan(read, kernels, mmus)
    failed = 0
    with _progress(sum(len(boot.scenarios) for boot in boots)) as step:
        for failure in record(boots, output, step):
            failed += 1
            click.echo(failure, err=True)
    if failed:
        raise SystemExit(2)


@main.command("compare")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option(
    "--explain",
    "explained",
    is_flag=True,
    help="FIRST is of 6.1, SECOND of 6.12: count what is known to differ, list the rest.",
)
def compare_command(first: Path, second: Path, *, explained: bool) -> None:
    """Compares two recordings, or all in two folders; 0 equal, 1 different (with --explain: unexplained)."""
    lines = list(compare(first, second))
    if explained:
        counts, lines = explain(lines)
        for explanation in EXPLANATIONS:
            click.echo(f"{counts[explanation.key]:6} {explanation.key}: {explanation.why}")
    for line in lines:
        click.echo(line)
    raise SystemExit(1 if lines else 0)


def _find(names: Sequence[str]) -> list[Path]:
    """The files of the scenarios."""
    folder = CONFORMANCE / "scenarios"
    if not names:
        found = sorted(folder.glob("*.yaml"))
        if not found:
            raise LiveError(f"no scenarios in {folder}; name files")
        return found
    paths = [Path(name) if name.endswith(".yaml") else folder / f"{name}.yaml" for name in names]
    for name, path in zip(names, paths, strict=True):
        if not path.is_file():
            known = ", ".join(sorted(other.stem for other in folder.glob("*.yaml")))
            raise LiveError(f"no scenario {name}; known are {known or 'none'}")
    return paths


def _require(scenarios: list[Scenario], kernels: Sequence[str], mmus: Sequence[MmuKind]) -> None:
    """A scenario asked for by name on a configuration that it does not run on is an error."""
    for scenario in scenarios:
        for kernel in set(kernels) - set(scenario.kernels):
            raise ScenarioError(scenario.where, 1, f"this scenario does not run on kernel {kernel}")
        for mmu in set(mmus) - set(scenario.kinds):
            raise ScenarioError(scenario.where, 1, f"this scenario does not run on the MMU {mmu.value}")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("boots", total=total)
        begun = 0

        def step(what: str) -> None:
            nonlocal begun
            bar.update(task, completed=begun, description=what)
            begun += 1

        yield step


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    """Ends as Ctrl-C does, so that everything is cleaned up."""
    raise KeyboardInterrupt
