"""`python -m conformance.races`: what exploring each race covers, as a table, and the wrong models that lose it."""

from collections.abc import Callable, Iterator

import click

from conformance.races import LOST_BY_THE_KERNELS, RACES
from conformance.races.wrong import WRONG
from mmu_model.kernels import KERNELS
from mmu_model.schedule import Race, ScheduleFailed, explore


def rows() -> Iterator[tuple[str, ...]]:
    """A heading, then a row a race."""
    counts = (f"{what}, {release}" for what in ("states", "schedules") for release in KERNELS)
    yield "race", "actors", *counts, "lost by"
    yield ("---",) * (3 + 2 * len(KERNELS))
    for race in RACES:
        found = [explore(lambda race=race, kernel=kernel: race(kernel)) for kernel in KERNELS]  # type: ignore[misc]
        lost = ", ".join(f"`{wrong.breaks.__name__}`" for wrong in WRONG if wrong.race is race)
        states, schedules = (f"{each.states:,}" for each in found), (f"{each.schedules:,}" for each in found)
        yield f"`{race.__name__}`", actors(race), *states, *schedules, lost
    for race in LOST_BY_THE_KERNELS:
        steps = [lost_in(race, kernel) for kernel in KERNELS]
        unknown = ("",) * len(KERNELS)
        yield (
            f"`{race.__name__}`",
            actors(race),
            *unknown,
            *(f"lost in {n} steps" for n in steps),
            "the kernels",
        )


def actors(race: Callable[[str], Race]) -> str:
    """By name."""
    return ", ".join(race(next(iter(KERNELS))).actors)


def lost_in(race: Callable[[str], Race], kernel: str) -> int:
    """How long the schedule is that loses it."""
    try:
        explore(lambda: race(kernel))
    except ScheduleFailed as failed:
        return len(failed.steps)
    raise AssertionError(f"{race.__name__} is not lost on {kernel}")


def main() -> None:
    """Row by row, as each is done."""
    for row in rows():
        click.echo(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
