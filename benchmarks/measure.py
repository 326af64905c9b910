"""What a benchmark is made of."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

_ROUNDS: Final = 5


@dataclass(frozen=True)
class Measurement:
    """A figure, and what it is held against.

    Attributes
    ----------
    name, value, unit :
        What was measured. A unit that ends in "/s" is better the higher it is, any other the lower.
    target :
        What is to be reached.
    peer, peer_value :
        Something else in the same unit, for comparison.

    """

    name: str
    value: float
    unit: str
    target: float | None = None
    peer: str | None = None
    peer_value: float | None = None

    @property
    def higher_is_better(self) -> bool:
        """Whether it is a rate."""
        return self.unit.endswith("/s")

    @property
    def ratio(self) -> float | None:
        """How many times better than the peer."""
        if not self.peer_value:
            return None
        return self.value / self.peer_value if self.higher_is_better else self.peer_value / self.value

    @property
    def reached(self) -> bool | None:
        """Whether the target was reached, if there is one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.higher_is_better else self.value <= self.target

    def as_json(self) -> dict[str, Any]:
        """As build/bench.json has it."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "target": self.target,
            "peer": self.peer,
            "peer_value": self.peer_value,
            "ratio": self.ratio,
        }


Benchmark = Callable[[], Iterable[Measurement]]

BENCHMARKS: Final[list[Benchmark]] = []
"""All that have been marked, in the order of their modules."""


def benchmark(function: Benchmark) -> Benchmark:
    """Mark a function that measures."""
    BENCHMARKS.append(function)
    return function


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes by the clock, with all that it starts."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def cpu_seconds(work: Callable[[], object]) -> float:
    """What one call takes of a processor: by the clock the same, but for others who use this machine too."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def rate(work: Callable[[], object], count: int, rounds: int = _ROUNDS) -> float:
    """How many a second of a processor, if one call does `count`: the best of some rounds, since others empty
    its caches."""
    return count / min(cpu_seconds(work) for _ in range(rounds))
