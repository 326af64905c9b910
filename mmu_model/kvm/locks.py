"""Locks that know who holds them and how, and refuse what lockdep refuses.

A task takes a lock by ``with lock:`` (of a read-write lock: ``with lock.read:``). Where another task may hold
it, it first waits: ``yield from lock.wait()``. As long as a task waits the lock is contended, which is what
those who hold it for long look at (`rwlock_needbreak`).
"""

from types import TracebackType
from typing import Final

from mmu_model.kvm.errors import KvmBug
from mmu_model.kvm.task import SleepInAtomicContext, Steps, Task, current, might_sleep


class LockNotHeld(KvmBug):
    """A lock is released, or relied on, by a task that does not hold it (that way)."""


class LockNotFree(KvmBug):
    """A task takes a lock that it, or another, holds: it would wait for ever."""


class WrongLockOrder(KvmBug):
    """A lock is taken inside another that is to be taken inside it, or without the one that it needs."""


class Hold:
    """One way to hold a lock.

    Attributes
    ----------
    holders :
        The tasks that hold the lock this way.
    waiters :
        How many tasks are about to take it this way.

    Parameters
    ----------
    name :
        What messages call it.
    shared :
        Whether several tasks may hold it this way at once.
    sleeps :
        It is a mutex: a task that waits for it sleeps, and one that holds it may.
    order :
        It is taken outside all locks of a higher number; 0: it has no place in the order.
    within :
        A lock that who takes this one holds already, one way or the other.

    """

    __slots__ = ("_excluded_by", "holders", "name", "order", "shared", "sleeps", "waiters", "within")

    def __init__(
        self,
        name: str,
        *,
        shared: bool = False,
        sleeps: bool = False,
        order: int = 0,
        within: "RwLock | None" = None,
    ) -> None:
        self.name = name
        self.shared = shared
        self.sleeps = sleeps
        self.order = order
        self.within = within
        self.holders: list[Task] = []
        self.waiters = 0
        self._excluded_by: tuple[Hold, ...] = () if shared else (self,)

    def exclude(self, *others: "Hold") -> None:
        """Nobody can hold it this way while somebody holds one of the others."""
        self._excluded_by = others

    def ready(self) -> bool:
        """Whether it could be taken now."""
        return not any(other.holders for other in self._excluded_by)

    def wait(self) -> Steps[None]:
        """Wait until it can be taken; others may run before, even if it is free."""
        if self.sleeps:
            might_sleep(f"for {self.name}")
        self.waiters += 1
        try:
            yield self
        finally:
            self.waiters -= 1

    def acquire(self) -> None:
        """Take it.

        Raises
        ------
        LockNotFree
            It is not free.
        SleepInAtomicContext
            It is a mutex, and the task holds a spinlock.
        WrongLockOrder
            The task holds a lock that is taken inside this one, or does not hold the one around it.

        """
        task = current()
        if task.held or self.within:
            self._check_order(task)
        for other in self._excluded_by:
            if other.holders:
                raise LockNotFree(f"{task} takes {self.name}: {other} already, so it would wait for ever")
        if self.shared and task in self.holders:
            raise LockNotFree(f"{task} takes {self.name} a second time")
        if self.sleeps:
            might_sleep(f"for {self.name}")
        else:
            task.atomic += 1
        self.holders.append(task)
        task.held.append(self)

    def _check_order(self, task: Task) -> None:
        for other in task.held:
            if other.order > self.order > 0:
                raise WrongLockOrder(
                    f"{task} takes {self.name} inside {other.name}; it is to be taken outside"
                )
        if self.within and not self.within.is_held():
            raise WrongLockOrder(f"{task} takes {self.name} without {self.within.name} around it")

    def release(self) -> None:
        """Give it back.

        Raises
        ------
        LockNotHeld
            The current task does not hold it.

        """
        task = current()
        if task not in self.holders:
            raise LockNotHeld(f"{task} releases {self.name} and does not hold it: {self}")
        self.holders.remove(task)
        task.held.remove(self)
        if not self.sleeps:
            task.atomic -= 1

    def is_held(self) -> bool:
        """Whether the current task holds it this way."""
        return current() in self.holders

    def assert_held(self) -> None:
        """`lockdep_assert_held`: raises LockNotHeld if the current task does not hold it this way."""
        if current() not in self.holders:
            raise LockNotHeld(f"{current()} needs {self.name} and does not hold it: {self}")

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.release()

    def __str__(self) -> str:
        for hold in (self, *self._excluded_by):
            if hold.holders:
                return f"{hold.name} is held by {' and '.join(task.name for task in hold.holders)}"
        return f"{self.name}, held by nobody"


class SpinLock(Hold):
    """`spinlock_t`: one holder, who does not sleep."""

    __slots__ = ()


class Mutex(Hold):
    """`struct mutex`: one holder, who may sleep."""

    __slots__ = ()

    def __init__(self, name: str, *, order: int = 0) -> None:
        super().__init__(name, sleeps=True, order=order)


class RwLock:
    """`rwlock_t`: many readers or one writer.

    Attributes
    ----------
    read, write :
        The two ways to hold it.

    """

    def __init__(self, name: str, *, order: int = 0) -> None:
        self.name = name
        self.read: Final = Hold(f"{name} (read)", shared=True, order=order)
        self.write: Final = Hold(f"{name} (write)", order=order)
        self.read.exclude(self.write)
        self.write.exclude(self.write, self.read)

    def assert_held_write(self) -> None:
        """`lockdep_assert_held_write`; raises LockNotHeld."""
        self.write.assert_held()

    def assert_held_read(self) -> None:
        """`lockdep_assert_held_read`; raises LockNotHeld."""
        self.read.assert_held()

    def is_held(self) -> bool:
        """Whether the current task holds it, either way."""
        task = current()
        return task in self.write.holders or task in self.read.holders

    def assert_held(self) -> None:
        """`lockdep_assert_held`, either way; raises LockNotHeld."""
        if not self.is_held():
            self.read.assert_held()

    def is_contended(self) -> bool:
        """Whether another task waits for it in a way that the holder keeps it from (`rwlock_needbreak`)."""
        return bool(self.write.waiters or (self.read.waiters and self.write.holders))

    def cond_resched(self) -> Steps[None]:
        """Let those who wait for it have it, then take it back (`cond_resched_rwlock_read`, `_write`).

        Raises
        ------
        SleepInAtomicContext
            The task is in another spinlock, or in an RCU read-side section.

        """
        task = current()
        if task.atomic > 1:
            raise SleepInAtomicContext(f"{task} gives {self.name} away and is in atomic context besides")
        hold = self.write if self.write.is_held() else self.read
        hold.release()
        yield from hold.wait()
        hold.acquire()
