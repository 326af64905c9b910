"""The commands `mmu-model explore` and `mmu-model replay`."""

import sys
from pathlib import Path
from typing import Final, NoReturn

import click

from mmu_model.kernels import KERNELS
from mmu_model.schedule.explore import explore
from mmu_model.schedule.file import read_schedule, write_schedule
from mmu_model.schedule.race import Bound, ScheduleError, ScheduleFailed, WrongSchedule
from mmu_model.schedule.run import replay
from mmu_tool.races import race_named

STEP_SECONDS: Final = Bound().seconds

_KERNEL = click.option("--kernel", type=click.Choice(list(KERNELS)), default="6.12", show_default=True)


@click.command("explore")
@click.argument("race", metavar="MODULE:RACE")
@_KERNEL
@click.option(
    "--preemptions", type=click.IntRange(min=0), help="How often an actor is overtaken.  [default: no bound]"
)
@click.option(
    "--states",
    type=click.IntRange(min=1),
    default=Bound().states,
    show_default=True,
    help="How many to go on from.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write a schedule that fails.",
)
def explore_command(
    race: str, kernel: str, preemptions: int | None, states: int, output: Path | None
) -> None:
    """Run the actors of a race in every order.

    MODULE:RACE is a function in a Python module, as in conformance.races:fault_against_zap. The exit status is
    1 if something goes wrong in one of the orders; that order is printed.
    """
    try:
        found = explore(
            race_named(race, kernel), Bound(states=states, preemptions=preemptions, seconds=STEP_SECONDS)
        )
    except ScheduleFailed as failed:
        if output is not None:
            _write(output, failed)
        click.echo(failed)
        sys.exit(1)
    except ScheduleError as error:
        _fail(f"error: {error}")
    except KeyboardInterrupt:
        click.echo("stopped: nothing is known of orders that were not tried", err=True)
        sys.exit(130)
    click.echo(
        f"{race} on {kernel}: {found.states:,} states, {found.schedules:,} schedules of up to {found.longest} steps;"
        " nothing goes wrong"
    )


@click.command("replay")
@click.argument("race", metavar="MODULE:RACE")
@click.argument("schedule", metavar="FILE", type=click.Path(path_type=Path))
@_KERNEL
def replay_command(race: str, schedule: Path, kernel: str) -> None:
    """Run the actors of a race in the order that is in FILE, and print where each stands after each step.

    The exit status is 1 if that goes wrong, as it did when the schedule was found.
    """
    try:
        steps = replay(race_named(race, kernel), read_schedule(schedule))
    except ScheduleFailed as failed:
        click.echo(failed)
        sys.exit(1)
    except WrongSchedule as error:
        where = f"{schedule}:{error.step + 1}: error: " if error.step else ""
        _fail(f"{where}{error}")
    except ScheduleError as error:
        _fail(f"error: {error}")
    for number, step in enumerate(steps, 1):
        click.echo(f"{number:4}  {step.actor}  {step.stands}")
    click.echo("nothing goes wrong")


def _write(output: Path, failed: ScheduleFailed) -> None:
    try:
        write_schedule(output, failed.steps)
    except OSError as error:
        _fail(f"{output}: error: {error.strerror or error}")


def _fail(message: str) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(2)
