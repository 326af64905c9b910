"""Read-copy update: what readers may still see is freed only when they are gone (RCU and SRCU)."""

from collections.abc import Callable
from types import TracebackType
from typing import Final

from mmu_model.kvm.locks import LockNotHeld
from mmu_model.kvm.task import Steps, Task, WouldWaitForEver, current, might_sleep


class _Section:
    """One read-side section of a task, from the first lock to the last unlock."""

    __slots__ = ("depth",)

    def __init__(self) -> None:
        self.depth = 1


class GracePeriod:
    """Over when every section that was open at its beginning is closed."""

    __slots__ = ("_name", "_open")

    def __init__(self, name: str, sections: list[_Section]) -> None:
        self._name = name
        self._open = sections

    def ready(self) -> bool:
        """Whether it is over."""
        return not any(section.depth for section in self._open)

    def __str__(self) -> str:
        return f"the readers of {self._name}"


class Rcu:
    """A domain of readers, and what waits for them.

    Parameters
    ----------
    name :
        What messages call it.
    sleepable :
        SRCU: readers may sleep.
    order :
        Locks of a lower number are not taken in a read-side section (0: any may be), since who holds one
        may be waiting for the readers.

    Attributes
    ----------
    read :
        ``with rcu.read:`` is a read-side section; sections nest.

    """

    def __init__(self, name: str, *, sleepable: bool = False, order: int = 0) -> None:
        self.name = name
        self.order = order
        self._sleepable = sleepable
        self._readers: dict[Task, _Section] = {}
        self._callbacks: list[tuple[GracePeriod, Callable[[], None]]] = []
        self.read: Final = _Read(self)

    def lock(self) -> None:
        """`rcu_read_lock`."""
        task = current()
        section = self._readers.get(task)
        if section is not None:
            section.depth += 1
            return
        self._readers[task] = _Section()
        if self._sleepable:
            task.held.append(self)
        else:
            task.atomic += 1

    def unlock(self) -> None:
        """`rcu_read_unlock`; raises LockNotHeld if the task is in no section."""
        task = current()
        section = self._readers.get(task)
        if section is None:
            raise LockNotHeld(f"{task} leaves a read-side section of {self.name} and is in none")
        section.depth -= 1
        if section.depth:
            return
        del self._readers[task]
        if self._sleepable:
            task.held.remove(self)
        else:
            task.atomic -= 1
        if self._callbacks:
            self._run_callbacks()

    def assert_held(self) -> None:
        """`rcu_dereference`: raises LockNotHeld if the current task is in no read-side section."""
        if current() not in self._readers:
            raise LockNotHeld(f"{current()} follows a pointer of {self.name} outside a read-side section")

    def call(self, callback: Callable[[], None]) -> None:
        """`call_rcu`: call back as soon as all that read now have stopped."""
        self._callbacks.append((self._grace_period(), callback))
        self._run_callbacks()

    def synchronize(self) -> Steps[None]:
        """Wait until all that read now have stopped (`synchronize_srcu_expedited`).

        Raises
        ------
        SleepInAtomicContext
            The task must not sleep.
        WouldWaitForEver
            It is a reader itself.

        """
        might_sleep(f"for {self.name}")
        if current() in self._readers:
            raise WouldWaitForEver(f"{current()} waits for the readers of {self.name} and is one of them")
        yield self._grace_period()

    def _grace_period(self) -> GracePeriod:
        return GracePeriod(self.name, list(self._readers.values()))

    def _run_callbacks(self) -> None:
        due = [callback for period, callback in self._callbacks if period.ready()]
        if due:
            self._callbacks = [pair for pair in self._callbacks if not pair[0].ready()]
            for callback in due:
                callback()


class _Read:
    def __init__(self, rcu: Rcu) -> None:
        self._rcu = rcu

    def __enter__(self) -> None:
        self._rcu.lock()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._rcu.unlock()
