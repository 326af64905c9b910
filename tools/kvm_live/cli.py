"""The command ``kvm-live``."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mmu_model.scenario import Scenario, ScenarioError, read_scenario
from mmu_model.scenario.schema import KERNELS
from mmu_model.snapshot import MmuKind, RecordingError

from .compare import compare
from .errors import LiveError
from .record import plan, record

CONFORMANCE = Path(__file__).resolve().parents[2] / "conformance"
ALL = "all"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Runs scenarios on real kernels, records what KVM's MMUs build, and compares recordings."""
    signal.signal(signal.SIGTERM, _interrupt)


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
    try:
        read = [read_scenario(path) for path in _find(scenarios)]
        if scenarios:
            _require(read, kernels if kernel != ALL else (), mmus if mmu != ALL else ())
        boots = plan(read, kernels, mmus)
        failed = 0
        with _progress(sum(len(boot.scenarios) for boot in boots)) as step:
            for failure in record(boots, output, step):
                failed += 1
                click.echo(failure, err=True)
    except (ScenarioError, LiveError) as error:
        _give_up(error)
    except OSError as error:
        _give_up(LiveError(f"{error.filename or output}: {error.strerror}"))
    if failed:
        raise SystemExit(2)


@main.command("compare")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
def compare_command(first: Path, second: Path) -> None:
    """Compares two recordings, or all in two folders; 0 equal, 1 different."""
    try:
        lines = list(compare(first, second))
    except (RecordingError, LiveError) as error:
        _give_up(error)
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


def _give_up(error: Exception) -> NoReturn:
    text = str(error)
    click.echo(text if ": error: " in text else f"kvm-live: error: {text}", err=True)
    raise SystemExit(2)


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    """Ends as Ctrl-C does, so that everything is cleaned up."""
    raise KeyboardInterrupt
