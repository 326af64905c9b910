"""The command `mmu-model`."""

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from mmu_tool.schedule_commands import explore_command, replay_command

if TYPE_CHECKING:
    from mmu_model.snapshot import Recording


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Run the reference model of x86 paging and of KVM's MMUs."""


main.add_command(explore_command)
main.add_command(replay_command)


@main.command()
@click.argument("file", metavar="[FILE]", default="-")
def walk(file: str) -> None:
    """Answer page walks: a JSON case a line in, a JSON answer a line out.

    Reads standard input if no FILE is given. A line that is no case is answered with an error; the exit
    status then is 2.
    """
    from mmu_tool.walk_filter import answer_lines

    try:
        with click.open_file(file, "rb") as lines:
            bad = answer_lines(lines, sys.stdout)
    except BrokenPipeError:  # whoever reads the answers has had enough; click ends in silence
        raise
    except OSError as error:
        _fail(f"{file}: error: {error.strerror or error}")
    if bad:
        name = "standard input" if file == "-" else file
        _fail(f"{name}:{bad[0]}: error: no case, as its answer says; {len(bad)} such lines in all")


@main.command()
@click.option("--kernel", type=click.Choice(["6.1", "6.12"]), default="6.12", show_default=True)
@click.option("--mmu", type=click.Choice(["tdp", "direct", "shadow"]), help="[default: the scenario's first]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write there, compressed if the name ends in .gz; left out, standard output.",
)
@click.option(
    "--draw",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Draw the snapshots instead, an SVG file each in DIR, and print the names of the files.",
)
@click.argument("scenario", type=click.Path(path_type=Path))
def run(kernel: str, mmu: str | None, output: Path | None, folder: Path | None, scenario: Path) -> None:
    """Run SCENARIO, a YAML file, on the model, and print its snapshots as JSON.

    What comes out is what `kvm-live record` makes of the same scenario on a real kernel. The exit status is 1
    if an access faults that should not, or the other way round.
    """
    from mmu_model.run import RunError, run_scenario, unexpected
    from mmu_model.scenario import ScenarioError, read_scenario
    from mmu_model.snapshot import MmuKind
    from mmu_model.snapshot.recording import to_json, write_recording

    try:
        found = read_scenario(scenario)
        kind = MmuKind(mmu) if mmu else found.kinds[0]
        if kind not in found.kinds or kernel not in found.kernels:
            _fail(f"{scenario}:1: error: this scenario does not run on {kernel} with the MMU {kind.value}")
        recording = run_scenario(found, kernel, kind)
        if output is not None:
            write_recording(output, recording, compress=output.suffix == ".gz")
        if folder is not None:
            _draw(recording, folder)
        if output is None and folder is None:
            click.echo(to_json(recording), nl=False)
    except (ScenarioError, RunError) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or scenario}: error: {error.strerror or error}")
    complaints = unexpected(found, recording)
    for complaint in complaints:
        click.echo(complaint, err=True)
    sys.exit(1 if complaints else 0)


@main.command()
@click.option(
    "-o",
    "--output",
    "folder",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    default=".",
    help="Where to write the drawings.  [default: the current folder]",
)
@click.option("--step", metavar="STEP", help="This snapshot only: its name, or its number from 1 on.")
@click.option("--text", is_flag=True, help="Print what the drawings show in words, and write no file.")
@click.argument("recording", type=click.Path(path_type=Path))
def draw(folder: Path, step: str | None, text: bool, recording: Path) -> None:
    """Draw the snapshots of RECORDING, an SVG file each, and print the names of the files.

    A recording is what `mmu-model run -o` and `kvm-live record` write. Each drawing shows what changed since the
    snapshot before it.
    """
    from mmu_model.snapshot import RecordingError, read_recording
    from mmu_tool.draw import drawings
    from mmu_tool.draw.files import chosen

    try:
        found = read_recording(recording)
        names = [snapshot.name for snapshot in found.snapshots]
        number = chosen(names, step) if step is not None else None
        if number is None and step is not None:
            known = ", ".join(map(repr, names)) or "none"
            _fail(f"{recording}: error: no snapshot {step!r}; there are {known}")
        if text:
            for place, drawing in enumerate(drawings(found)):
                if number in (None, place):
                    click.echo(drawing.text)
        else:
            _draw(found, folder, number)
    except RecordingError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or folder}: error: {error.strerror or error}")


def _draw(recording: "Recording", folder: Path, only: int | None = None) -> None:
    from mmu_tool.draw import drawings
    from mmu_tool.draw.files import file_names, write_files
    from mmu_tool.progress import progress_bar

    names = file_names(recording)
    files = {}
    with progress_bar("drawings", len(names)) as advance_to:
        for place, drawing in enumerate(drawings(recording)):
            if only in (None, place):
                files[names[place]] = drawing.svg
            advance_to(place + 1)
    for path in write_files(folder, files):
        click.echo(path)


@main.command("access-matrix")
@click.option("--paging", type=click.Choice(["4-level", "5-level"]), default="4-level", show_default=True)
@click.option("--scheduler", metavar="ADDRESS", help="Run on the Dask cluster with this scheduler.")
@click.option(
    "--checkpoint",
    "checkpoint_file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to keep what has been checked until all is.  [default: in the user's cache]",
)
def access_matrix(paging: str, scheduler: str | None, checkpoint_file: Path | None) -> None:
    """Check every combination of entry flags, CPU controls and accesses.

    Three answers must agree on each: the rules of the manual, the batch walk and the single walk. The exit
    status is 1 if they do not. Work that was stopped is taken up again where it stopped.
    """
    from mmu_model.hardware.registers import Mode
    from mmu_tool.campaign import CampaignError, all_cores, cluster
    from mmu_tool.matrix.combinations import BLOCKS
    from mmu_tool.matrix.run import checkpoint, run
    from mmu_tool.progress import progress_bar

    begin = time.monotonic()
    file = checkpoint_file or _cache() / f"access-matrix-{paging}.jsonl"
    try:
        done = checkpoint(file, Mode(paging))
        executor = cluster(scheduler) if scheduler else all_cores
        with progress_bar("access matrix", len(BLOCKS)) as advance_to:
            summary = run(Mode(paging), executor, done, lambda so_far: advance_to(so_far.blocks))
    except CampaignError as error:
        _fail(str(error) if ": error: " in str(error) else f"error: {error}")
    except OSError as error:
        _fail(f"{error.filename or file}: error: {error.strerror or error}")
    except KeyboardInterrupt:
        click.echo("stopped; what has been checked is kept, the same command goes on from there", err=True)
        sys.exit(130)
    click.echo(
        f"{paging} paging: {summary.combinations:,} combinations, {summary.disagreements:,} disagreements"
        f" ({summary.single_walks:,} single walks made, {time.monotonic() - begin:.1f} s)"
    )
    for description in summary.described:
        click.echo(description)
    sys.exit(1 if summary.disagreements else 0)


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "kvm-mmu-conformance"


def _fail(message: str) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(2)
