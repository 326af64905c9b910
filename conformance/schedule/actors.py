"""Actors of textbook races, for the explorer of orders."""

from collections.abc import Callable
from dataclasses import dataclass, field

from mmu_model.kvm.locks import Mutex, SpinLock
from mmu_model.kvm.task import Steps
from mmu_model.schedule import Race


@dataclass
class Counter:
    """What two actors add to."""

    value: int = 0
    lock: SpinLock = field(default_factory=lambda: SpinLock("counter lock"))


def adds(counter: Counter) -> Steps[None]:
    """Reads, then writes."""
    yield "reads"
    value = counter.value
    yield "writes"
    counter.value = value + 1


def adds_under_the_lock(counter: Counter) -> Steps[None]:
    """The same, and nobody in between."""
    yield from counter.lock.wait()
    with counter.lock:
        yield from adds(counter)


def adders(how: Callable[[Counter], Steps[None]], count: int = 2) -> Callable[[], Race]:
    """Actors that each add 1."""

    def start() -> Race:
        counter = Counter()

        def at_end() -> None:
            assert counter.value == count, f"{counter.value} of {count}"

        return Race({f"adder {n}": how(counter) for n in range(count)}, at_end=at_end)

    return start


def walks(steps: int) -> Steps[None]:
    """Does nothing, so many times."""
    for _ in range(steps - 1):
        yield "on the way"


def walkers(*steps: int) -> Callable[[], Race]:
    """Actors that have nothing to do with each other."""
    return lambda: Race({f"walker {n}": walks(count) for n, count in enumerate(steps)})


def takers_in_two_orders() -> Race:
    """Actors that each take two locks, the one in the other's reverse order."""
    a, b = Mutex("a"), Mutex("b")
    return Race({"one": _takes(a, b), "two": _takes(b, a)})


def _takes(first: Mutex, second: Mutex) -> Steps[None]:
    yield from first.wait()
    with first:
        yield from second.wait()
        with second:
            pass
