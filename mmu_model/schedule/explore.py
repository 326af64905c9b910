"""The search through every order, in depth."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from mmu_model.schedule.race import Bound, BoundReached, Exploration, NeverYields, Race, ScheduleFailed
from mmu_model.schedule.run import Run
from mmu_model.schedule.watch import watched

_BOUND: Final = Bound()


def explore(start: Callable[[], Race], bound: Bound = _BOUND) -> Exploration:
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
    run: Run = field(init=False)
    known: dict[tuple[Any, ...], int] = field(default_factory=dict)
    way: list[_Node] = field(default_factory=list)
    schedule: list[str] = field(default_factory=list)
    yielded: set[str] = field(default_factory=set)
    steps: int = 0
    longest: int = 0

    def explore(self) -> Exploration:
        self.run = Run(self.start())
        try:
            with watched(lambda: (self.run, len(self.run.steps)), self.bound.seconds):
                schedules = self._try_all()
            for actor in self.run.race.actors:
                if actor not in self.yielded:
                    raise NeverYields(f"actor {actor} never yields: nobody can run in between")
            return Exploration(len(self.known), schedules, self.longest, self.steps)
        finally:
            self.run.close()

    def _try_all(self) -> int:
        """How many orders there are."""
        self._enter(0)
        schedules = 0
        while self.way:
            if self.way[-1].untried:
                self._try_next()
            else:
                schedules = self._leave()
        return schedules

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
        self.run = Run(self.start())
        for actor in self.schedule:
            self.run.step(actor)
        self.steps += len(self.schedule)

    def _enter(self, preemptions: int) -> None:
        """The run has come to a state: go on from it unless that was done before."""
        run = self.run
        self.longest = max(self.longest, len(run.steps))
        state = self._state(run, preemptions)
        if state in self.known:
            self.way[-1].schedules += self.known[state]
            self.schedule.pop()
            return
        if any(node.state == state for node in self.way):
            raise ScheduleFailed(
                "the actors come back to where they were: they may go on for ever", run.steps
            )
        if len(self.known) + len(self.way) >= self.bound.states:
            raise BoundReached(
                f"more than {self.bound.states} states: raise the bound, or bound the preemptions"
            )
        able = self._allowed(run, preemptions)
        if not able:
            run.check_end()
        elif len(run.steps) >= self.bound.steps:
            raise ScheduleFailed(f"no end after {len(run.steps)} steps", run.steps)
        self.way.append(_Node(state, able, int(not able), preemptions))

    def _leave(self) -> int:
        node = self.way.pop()
        self.known[node.state] = node.schedules
        if self.way:
            self.way[-1].schedules += node.schedules
            self.schedule.pop()
        return node.schedules

    def _state(self, run: Run, preemptions: int) -> tuple[Any, ...]:
        if self.bound.preemptions is None:
            return (run.key(),)
        return run.key(), preemptions, run.steps[-1].actor if run.steps else ""

    def _allowed(self, run: Run, preemptions: int) -> list[str]:
        able = run.able()
        last = run.steps[-1].actor if run.steps else ""
        if self.bound.preemptions is not None and preemptions >= self.bound.preemptions and last in able:
            return [last]
        return able
