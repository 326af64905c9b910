"""Races by name, MODULE:RACE: a function that is given a release and makes the actors."""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from mmu_model.schedule.race import Race, ScheduleError


class NoSuchRace(ScheduleError):
    """A name is no race's; the message says what is."""


def race_named(name: str, kernel: str) -> Callable[[], Race]:
    """What starts that race anew, on that kernel.

    Modules are looked for below the working directory, too.

    Raises
    ------
    NoSuchRace
        There is no such module, or nothing of that name in it that makes a race.

    """
    module_name, colon, function_name = name.partition(":")
    if not (module_name and colon and function_name):
        raise NoSuchRace(
            f"{name!r} names no race: write MODULE:RACE, as in conformance.races:fault_against_zap"
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        module = import_module(module_name)
    except Exception as error:  # whatever is wrong in somebody's module
        raise NoSuchRace(
            f"{name}: {module_name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        races = ", ".join(each.__name__ for each in getattr(module, "RACES", ()))
        hint = f"; there are {races}" if races else ""
        raise NoSuchRace(f"{name}: {module_name} has no race {function_name}{hint}")

    def start() -> Race:
        try:
            race = function(kernel)
        except Exception as error:  # whatever is wrong in somebody's race
            raise NoSuchRace(f"{name}: makes no race: {type(error).__name__}: {error}") from error
        if not isinstance(race, Race):
            raise NoSuchRace(f"{name}: makes a {type(race).__name__} and no Race")
        return race

    return start
