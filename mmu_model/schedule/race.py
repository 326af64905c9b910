"""What is run in every order, how far, and what comes of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmu_model.kvm.task import Steps


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
    seconds :
        How long an actor may run before it yields.

    """

    steps: int = 1_000
    states: int = 200_000
    preemptions: int | None = None
    seconds: float = 30


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
    """An actor runs from its start to its end without letting another run in between, or never ends a step."""


class BoundReached(ScheduleError):
    """There are more states than the bound allows, so that not every order was tried."""


class WrongSchedule(ScheduleError):
    """A schedule is not one of these actors, or a file is no schedule.

    Attributes
    ----------
    step :
        The step that does not fit, from 1; 0 if it is not about one.

    """

    def __init__(self, what: str, step: int = 0) -> None:
        super().__init__(what)
        self.step = step
