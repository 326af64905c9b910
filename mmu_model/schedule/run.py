"""Actors run in one order: a given one, or in turns."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from types import GeneratorType
from typing import Final

from mmu_model.fingerprint import fingerprint
from mmu_model.kvm.task import Spin, Task, Wait, leave, running
from mmu_model.schedule.race import NeverYields, Race, ScheduleError, ScheduleFailed, Step, WrongSchedule

_TRIES: Final = 2
"""So often an actor tries before it waits for others: the first time it may have begun before their last step."""


class Run:
    """The actors, as far as they have come."""

    def __init__(self, race: Race) -> None:
        self.race = race
        self.tasks = {name: Task(name) for name in race.actors}
        self.stops: dict[str, str | Wait | None] = dict.fromkeys(race.actors, "start")
        self.steps: list[Step] = []
        self.in_vain: dict[str, int] = dict.fromkeys(race.actors, 0)
        """How often each has tried in vain since another made a step."""
        for name, actor in race.actors.items():
            if not isinstance(actor, GeneratorType):
                raise NeverYields(f"actor {name} is no generator: make it a function that yields")

    def able(self) -> list[str]:
        """Who can run."""
        return [name for name, stop in self.stops.items() if stop is not None and self._is_ready(name)]

    def waiting(self) -> list[str]:
        """Who waits for something that has not happened."""
        return [name for name, stop in self.stops.items() if stop is not None and not self._is_ready(name)]

    def _is_ready(self, name: str) -> bool:
        stop = self.stops[name]
        if isinstance(stop, Spin):
            return self.in_vain[name] < _TRIES
        return stop is None or isinstance(stop, str) or stop.ready()

    def ended(self) -> bool:
        """Whether nobody has anything left to do."""
        return not any(stop is not None for stop in self.stops.values())

    def step(self, name: str) -> None:
        """One actor runs up to where it yields next."""
        self.steps.append(Step(name, ""))
        try:
            with running(self.tasks[name]):
                stop = next(self.race.actors[name], None)
                if stop is None:
                    leave()
            self.stops[name] = stop
            self.in_vain = {each: self.in_vain[each] if each == name else 0 for each in self.in_vain}
            self.in_vain[name] += isinstance(stop, Spin)
            self.steps[-1] = Step(name, self.standing(name))
            self.race.always()
        except ScheduleError:
            raise
        except Exception as error:
            raise ScheduleFailed(f"{type(error).__name__}: {error}", self.steps) from error

    def standing(self, name: str) -> str:
        """Where an actor is, in words."""
        stop = self.stops[name]
        if stop is None:
            return "ends"
        return stop if isinstance(stop, str) else f"waits for {stop}"

    def check_end(self) -> None:
        """Nobody can run: see that all is well."""
        stuck = self.waiting()
        if stuck:
            waits = "; ".join(f"{name} {self.standing(name)}" for name in stuck)
            raise ScheduleFailed(f"nobody can go on: {waits}", self.steps)
        try:
            self.race.at_end()
        except Exception as error:
            raise ScheduleFailed(f"at the end: {type(error).__name__}: {error}", self.steps) from error

    def key(self) -> bytes:
        """The state: the actors, all that they can reach, and all that the conditions look at."""
        return fingerprint((self.race, self.tasks, self.stops, self.in_vain))

    def close(self) -> None:
        """Nobody runs on; what the actors leave undone does not matter any more."""
        for name, actor in self.race.actors.items():
            with suppress(Exception), running(self.tasks[name]):
                actor.close()


def replay(start: Callable[[], Race], schedule: Sequence[str]) -> tuple[Step, ...]:
    """Run the actors in one order; the steps, as an explanation.

    Raises
    ------
    ScheduleFailed
        It goes wrong: as it did when the schedule was found.
    WrongSchedule
        An actor does not exist, cannot run, or is left over at the end.

    """
    run = Run(start())
    try:
        for number, actor in enumerate(schedule, 1):
            if actor not in run.stops:
                names = ", ".join(run.race.actors)
                raise WrongSchedule(f"step {number}: there is no actor {actor!r}; there are {names}", number)
            if actor not in run.able():
                raise WrongSchedule(f"step {number}: {actor} cannot run: {run.standing(actor)}", number)
            run.step(actor)
        if run.able():
            missing = len(schedule) + 1
            raise WrongSchedule(f"step {missing} is missing: {' and '.join(run.able())} could go on", missing)
        run.check_end()
        return tuple(run.steps)
    finally:
        run.close()


def blocked_steps(race: Race) -> dict[str, int]:
    """Run the actors in turns; for each, how many steps others did while it waited for something they had.

    Raises ScheduleFailed as :func:`explore` does.
    """
    run = Run(race)
    blocked = dict.fromkeys(race.actors, 0)
    try:
        while not run.ended():
            for actor in race.actors:
                if actor not in run.able():
                    continue
                for other in run.waiting():
                    blocked[other] += 1
                run.step(actor)
            if not run.able():
                run.check_end()
        return blocked
    finally:
        run.close()
