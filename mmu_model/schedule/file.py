"""A schedule in a file: to be looked at, kept, and replayed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mmu_model.schedule.race import Step, WrongSchedule

_HEAD: Final = "schedule 1"


def write_schedule(path: Path, steps: Sequence[Step]) -> None:
    """Write a schedule down: a line for each step, the actor's name and, for people, where it stands then."""
    beside = path.with_name(f"{path.name}.new")
    lines = [_HEAD, *(f"{step.actor}: {step.stands}" for step in steps)]
    beside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    beside.replace(path)


def read_schedule(path: Path) -> tuple[str, ...]:
    """The schedule in a file.

    Raises
    ------
    WrongSchedule
        The file cannot be read, or is none; the message has the line.

    """
    try:
        head, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    except (OSError, ValueError) as error:
        raise WrongSchedule(f"{path}: error: cannot be read as a schedule: {error}") from None
    if head != _HEAD:
        raise WrongSchedule(f"{path}:1: error: a schedule begins with the line {_HEAD!r}")
    for number, line in enumerate(lines, 2):
        if ":" not in line:
            raise WrongSchedule(f"{path}:{number}: error: {line!r} is no step; write ACTOR: where it stands")
    return tuple(line.partition(":")[0] for line in lines)
