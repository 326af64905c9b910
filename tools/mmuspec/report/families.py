"""Parametrized tests told as one test with cases: a reader wants to know which test it was, then in which cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from mmuspec.results import Evidence, Test
from mmuspec.version import version_key

T = TypeVar("T")
K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Family:
    """A test function, by its node id without parameters, and its cases; none for one without parameters."""

    name: str
    cases: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} ({len(self.cases)} cases)" if len(self.cases) > 1 else self.members[0]

    @property
    def function(self) -> str:
        """Its last name, by which it is told when it was named in full before."""
        return self.name.rpartition("::")[2]

    @property
    def members(self) -> tuple[str, ...]:
        """The node ids."""
        return tuple(f"{self.name}[{case}]" for case in self.cases) or (self.name,)


@dataclass(frozen=True, slots=True)
class Trial:
    """The cases of one test that had the same outcome."""

    outcome: str
    refutes: bool
    family: Family


@dataclass(frozen=True, slots=True)
class Sighting:
    """The cases of one test, or the one other place, where a statement was seen, and on which kernels."""

    tier: str
    kernels: tuple[str, ...]
    family: Family


def families(nodeids: Iterable[str]) -> tuple[Family, ...]:
    """Node ids, each under its test, in the order in which the tests first come."""
    return tuple(
        Family(name, tuple(_case(nodeid) for nodeid in group if _case(nodeid)))
        for name, group in _grouped(nodeids, _name)
    )


def trials(tests: Iterable[Test]) -> tuple[Trial, ...]:
    """Tests by what they did."""
    return tuple(
        Trial(outcome, refutes, families(test.nodeid for test in group)[0])
        for (_, outcome, refutes), group in _grouped(tests, lambda t: (_name(t.nodeid), t.outcome, t.refutes))
    )


def sightings(evidence: Iterable[Evidence]) -> tuple[Sighting, ...]:
    """Evidence by tier and place."""
    found = []
    for (tier, _), group in _grouped(evidence, lambda e: (e.tier, _name(e.where))):
        kernels = sorted({each.kernel for each in group if each.kernel}, key=version_key)
        found.append(Sighting(tier, tuple(kernels), families(each.where for each in group)[0]))
    return tuple(found)


def _name(nodeid: str) -> str:
    return nodeid.partition("[")[0] if nodeid.endswith("]") else nodeid


def _case(nodeid: str) -> str:
    return nodeid[len(_name(nodeid)) + 1 : -1]


def _grouped(things: Iterable[T], key: Callable[[T], K]) -> Iterator[tuple[K, list[T]]]:
    groups: dict[K, list[T]] = {}
    for thing in things:
        groups.setdefault(key(thing), []).append(thing)
    yield from groups.items()
