"""Who is running: kernel code that can be overtaken, and the task that it runs as.

Code that others may overtake is a generator. It yields wherever another task may run in between: a string says
what comes next; a :class:`Wait` says what has to happen before it can go on. Run alone, by :func:`finish`, it
is an ordinary function; :mod:`mmu_model.schedule` runs several in every order.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol, TypeVar

from mmu_model.kvm.errors import KvmBug

T = TypeVar("T")


class Wait(Protocol):
    """Something that a task waits for; printed, it says what."""

    def ready(self) -> bool:
        """Whether the task may go on."""


class Ordered(Protocol):
    """Something that is held, and where it stands in the order in which such things are taken.

    Attributes
    ----------
    name :
        What messages call it.
    order :
        It is taken outside everything of a higher number; 0: it has no place in the order.

    """

    name: str
    order: int


Steps = Generator[Any, None, T]
"""Kernel code that yields a string or a :class:`Wait` at each place where another task may run."""


class Task:
    """A thread of the kernel.

    Attributes
    ----------
    name :
        What schedules call it.
    atomic :
        How many spinlocks and RCU read-side sections it is in: it may not sleep unless there are none.
    held :
        The locks that it holds and the SRCU read-side sections that it is in, in the order of taking.

    """

    __slots__ = ("atomic", "held", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.atomic = 0
        self.held: list[Ordered] = []

    def __repr__(self) -> str:
        return self.name


class Spin:
    """A task tries again until another has done something: it is no use before another has run."""

    __slots__ = ("what",)

    def __init__(self, what: str) -> None:
        self.what = what

    def ready(self) -> bool:
        """Nobody else has run so far."""
        return False

    def __str__(self) -> str:
        return f"somebody else to go on, to try again: {self.what}"


class SleepInAtomicContext(KvmBug):
    """A task that must not sleep would have to wait: what might_sleep() warns of."""


class LeftWithLocks(KvmBug):
    """A task is done, and holds something still: what lockdep_sys_exit() warns of."""


class WouldWaitForEver(KvmBug):
    """A task waits for what only another could bring about, and no other runs."""


_ALONE: Final = Task("the only task")
_running = [_ALONE]


def current() -> Task:
    """The task that runs now."""
    return _running[-1]


@contextmanager
def running(task: Task) -> Iterator[None]:
    """Run as that task."""
    _running.append(task)
    try:
        yield
    finally:
        _running.pop()


def might_sleep(why: str) -> None:
    """Raises SleepInAtomicContext if the current task holds a spinlock or is in an RCU read-side section."""
    if current().atomic:
        raise SleepInAtomicContext(f"{current()} may have to sleep ({why}) and is in atomic context")


def leave() -> None:
    """The current task is done with the kernel; raises LeftWithLocks if it holds something still."""
    task = current()
    if task.held or task.atomic:
        what = " and ".join(each.name for each in task.held) or "an RCU read-side section"
        raise LeftWithLocks(f"{task} leaves the kernel and holds {what}")


def finish(steps: Steps[T]) -> T:
    """Run to the end with nobody in between; what it returns.

    Raises
    ------
    WouldWaitForEver
        It waits for something that has not happened.

    """
    try:
        while True:
            stop = next(steps)
            if stop.__class__ is not str and not stop.ready():
                raise WouldWaitForEver(f"{current()} would wait for ever: {stop}, and nobody else runs")
    except StopIteration as end:
        result: T = end.value
        return result
