"""Every order in which a few actors can run.

An actor is a generator that yields wherever another may run (:mod:`mmu_model.kvm.task`). :func:`explore` runs
actors in every order. It starts anew for each order, since a generator cannot be copied; a state that was
reached before, by whatever order, is not gone on from again, so that the number of states and not that of
orders is what it costs. What goes wrong is raised with the order that led there, which :func:`replay` repeats.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import GeneratorType
from typing import Any, Final

from mmu_model.fingerprint import fingerprint
from mmu_model.kvm.task import Spin, Steps, Task, Wait, running

_TRIES: Final = 2
"""So often an actor tries before it waits for others: the first time it may have begun before their last step."""


def _nothing() -> None:
    pass


@dataclass
class Race:
    """Actors at the start, and what must be true of them.

    Attributes
    ----------
    actors :
        By name, at most three to stay within reach.
    always :
        Called after every step; raises AssertionError if something is wrong.
    at_end :
        Called when all actors have ended.

    """

    actors: Mapping[str, Steps[Any]]
    always: Callable[[], None] = _nothing
    at_end: Callable[[], None] = _nothing


@dataclass(frozen=True, slots=True)
class Bound:
    """How far an exploration goes.

    Attributes
    ----------
    steps :
        The longest schedule; one that is longer counts as no progress.
    states :
        How many states are gone on from.
    preemptions :
        How often in one schedule an actor that could have gone on is overtaken; None: as often as possible.

    """

    steps: int = 1_000
    states: int = 200_000
    preemptions: int | None = None


@dataclass(frozen=True, slots=True)
class Exploration:
    """What was explored: nothing went wrong.

    Attributes
    ----------
    states :
        Different states.
    schedules :
        Different orders that lead through them from the start to an end.
    longest :
        Steps of the longest of those tried.
    steps :
        Steps taken in all, those to come back to a state included.

    """

    states: int
    schedules: int
    longest: int
    steps: int


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a schedule: who ran, and where it stands now."""

    actor: str
    stands: str


class ScheduleFailed(AssertionError):
    """Something goes wrong in an order of steps.

    Attributes
    ----------
    steps :
        The order; its last step is the one that went wrong.

    """

    def __init__(self, what: str, steps: Sequence[Step]) -> None:
        self.steps = tuple(steps)
        width = max((len(step.actor) for step in self.steps), default=0)
        lines = (f"{n:4}  {s.actor:{width}}  {s.stands}" for n, s in enumerate(self.steps, 1))
        super().__init__("\n".join([what, "after this schedule:", *lines]))

    @property
    def schedule(self) -> tuple[str, ...]:
        """Who ran, step by step: what :func:`replay` takes."""
        return tuple(step.actor for step in self.steps)


class ScheduleError(Exception):
    """Actors, bound or schedule do not fit together; the message says how."""


class NeverYields(ScheduleError):
    """An actor runs from its start to its end, in every order, without letting another run in between."""


class BoundReached(ScheduleError):
    """There are more states than the bound allows, so that not every order was tried."""


class WrongSchedule(ScheduleError):
    """A schedule is not one of these actors."""


def explore(start: Callable[[], Race], bound: Bound = Bound()) -> Exploration:
    """Run the actors in every order.

    Parameters
    ----------
    start :
        Makes actors that have not run yet; whenever it is called, the same.
    bound :
        How far to go.

    Raises
    ------
    ScheduleFailed
        In some order an actor raises an exception, a condition does not hold, all wait for each other, or it
        does not come to an end.
    NeverYields, BoundReached
        The exploration would say nothing, or not all.

    """
    return _Explorer(start, bound).explore()


def replay(start: Callable[[], Race], schedule: Sequence[str]) -> tuple[Step, ...]:
    """Run the actors in one order; the steps, as an explanation.

    Raises
    ------
    ScheduleFailed
        It goes wrong: as it did when the schedule was found.
    WrongSchedule
        An actor does not exist, cannot run, or is left over at the end.

    """
    run = _Run(start())
    try:
        for number, actor in enumerate(schedule, 1):
            if actor not in run.stops:
                names = ", ".join(run.race.actors)
                raise WrongSchedule(f"step {number}: there is no actor {actor!r}; there are {names}")
            if actor not in run.able():
                raise WrongSchedule(f"step {number}: {actor} cannot run: {run.standing(actor)}")
            run.step(actor)
        if run.able():
            raise WrongSchedule(
                f"step {len(schedule) + 1} is missing: {' and '.join(run.able())} could go on"
            )
        run.check_end()
        return tuple(run.steps)
    finally:
        run.close()


def blocked_steps(race: Race) -> dict[str, int]:
    """Run the actors in turns; for each, how many steps others did while it waited for something they had.

    Raises ScheduleFailed as :func:`explore` does.
    """
    run = _Run(race)
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


class _Run:
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
            self.stops[name] = stop
            self.in_vain = {each: self.in_vain[each] if each == name else 0 for each in self.in_vain}
            self.in_vain[name] += isinstance(stop, Spin)
            self.steps[-1] = Step(name, self.standing(name))
            self.race.always()
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


@dataclass
class _Node:
    """A state on the way that is being tried.

    Attributes
    ----------
    state :
        Its key: the state itself and, with a bound on preemptions, who ran last and how many are left.
    untried :
        Who has not been let run from here.
    schedules :
        How many orders lead from here to an end, as far as known.
    preemptions :
        How many there were on the way here.

    """

    state: tuple[Any, ...]
    untried: list[str]
    schedules: int = 0
    preemptions: int = 0


@dataclass
class _Explorer:
    """A search in depth."""

    start: Callable[[], Race]
    bound: Bound
    run: _Run = field(init=False)
    known: dict[tuple[Any, ...], int] = field(default_factory=dict)
    way: list[_Node] = field(default_factory=list)
    schedule: list[str] = field(default_factory=list)
    yielded: set[str] = field(default_factory=set)
    steps: int = 0
    longest: int = 0

    def explore(self) -> Exploration:
        self.run = _Run(self.start())
        try:
            self._enter(0)
            schedules = 0
            while self.way:
                if self.way[-1].untried:
                    self._try_next()
                else:
                    schedules = self._leave()
            for actor in self.run.race.actors:
                if actor not in self.yielded:
                    raise NeverYields(f"actor {actor} never yields: nobody can run in between")
            return Exploration(len(self.known), schedules, self.longest, self.steps)
        finally:
            self.run.close()

    def _try_next(self) -> None:
        node = self.way[-1]
        actor = node.untried.pop(0)
        if len(self.run.steps) != len(self.schedule):
            self._start_again()
        last = self.run.steps[-1].actor if self.run.steps else actor
        overtaken = last != actor and last in self.run.able()
        self.run.step(actor)
        if self.run.stops[actor] is not None:
            self.yielded.add(actor)
        self.steps += 1
        self.schedule.append(actor)
        self._enter(node.preemptions + overtaken)

    def _start_again(self) -> None:
        """The same actors, brought to where the way is."""
        self.run.close()
        self.run = _Run(self.start())
        for actor in self.schedule:
            self.run.step(actor)
        self.steps += len(self.schedule)

    def _enter(self, preemptions: int) -> None:
        """The run has come to a state: go on from it unless that was done before."""
        run = self.run
        state = self._state(run, preemptions)
        if state in self.known:
            self.way[-1].schedules += self.known[state]
            self.schedule.pop()
            return
        if any(node.state == state for node in self.way):
            raise ScheduleFailed(
                "the actors come back to where they were: they may go on for ever", run.steps
            )
        if len(run.steps) >= self.bound.steps:
            raise ScheduleFailed(f"no end after {len(run.steps)} steps", run.steps)
        if len(self.known) + len(self.way) >= self.bound.states:
            raise BoundReached(
                f"more than {self.bound.states} states: raise the bound, or bound the preemptions"
            )
        able = self._allowed(run, preemptions)
        if not able:
            run.check_end()
        self.longest = max(self.longest, len(run.steps))
        self.way.append(_Node(state, able, int(not able), preemptions))

    def _leave(self) -> int:
        node = self.way.pop()
        self.known[node.state] = node.schedules
        if self.way:
            self.way[-1].schedules += node.schedules
            self.schedule.pop()
        return node.schedules

    def _state(self, run: _Run, preemptions: int) -> tuple[Any, ...]:
        if self.bound.preemptions is None:
            return (run.key(),)
        return run.key(), preemptions, run.steps[-1].actor if run.steps else ""

    def _allowed(self, run: _Run, preemptions: int) -> list[str]:
        able = run.able()
        last = run.steps[-1].actor if run.steps else ""
        if self.bound.preemptions is not None and preemptions >= self.bound.preemptions and last in able:
            return [last]
        return able
