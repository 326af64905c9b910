"""Digests of states: equal for what nobody can tell apart, and different for what somebody can."""

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from conformance.scenes import guest
from mmu_model.fingerprint import fingerprint
from mmu_model.snapshot import MmuKind


class Box:
    """Something with a state."""

    def __init__(self, content: Any = None) -> None:
        self.content = content


@contextmanager
def inside(what: Any) -> Iterator[Any]:
    yield what


def walks(upto: int, box: Box | None = None) -> Generator[int, None, None]:
    for number in range(upto):
        yield -number
    with inside(box):
        yield -1


def at(steps: int, upto: int = 3, box: Box | None = None) -> Generator[int, None, None]:
    """One that has taken so many steps."""
    generator = walks(upto, box)
    for _ in range(steps):
        next(generator, None)
    return generator


def adder(amount: Any) -> Callable[[int], int]:
    return lambda number: number + amount


def half_made() -> Callable[[], Any]:
    """A function that refers to what is not there yet."""

    def later() -> Any:
        return content

    if math.pi < 3:
        content = 0
    return later


def recursive() -> Callable[[], Any]:
    """A function that refers to itself."""

    def again() -> Any:
        return again

    return again


@pytest.mark.parametrize(
    "make",
    [
        lambda: at(0),
        lambda: at(2),
        lambda: at(4, box=Box(5)),
        lambda: at(9),
        lambda: adder(3),
        half_made,
        recursive,
        lambda: Box([1, {2: Box(3)}]),
        lambda: [math, inside],
    ],
)
def test_what_is_made_alike_is_alike(make: Callable[[], Any]) -> None:
    assert fingerprint(make()) == fingerprint(make())
    assert len(fingerprint(make())) == 16


SHARED = Box()

DIFFERENT: list[tuple[Any, Any]] = [
    (at(0), at(1)),
    (at(1), at(2)),
    (at(4), at(9)),
    (at(1, 3), at(1, 4)),
    (at(4, box=Box(5)), at(4, box=Box(6))),
    (walks(0), inside(0)),
    (adder(3), adder(4)),
    (adder(3), half_made()),
    (math, contextmanager),
    ([Box(), Box()], [SHARED, SHARED]),
    (Box(1), Box(2)),
    ([at(1)], [at(1), at(1)]),
]


@pytest.mark.parametrize("pair", DIFFERENT, ids=range(len(DIFFERENT)))
def test_what_differs_is_told(pair: tuple[Any, Any]) -> None:
    """Where a generator stands, its locals, what it has half done; what a closure holds; what is shared."""
    assert fingerprint(pair[0]) != fingerprint(pair[1])


def test_what_cannot_be_read_is_refused() -> None:
    with Path(__file__).open(encoding="ascii") as file, pytest.raises(TypeError):
        fingerprint(Box(file))


def test_a_vm_is_as_it_was_or_not(kernel: str, mmu: MmuKind) -> None:
    """The same history makes the same VM; one access more, another."""
    vms = []
    for accesses in (1, 1, 2):
        scene = guest(kernel, mmu)
        for n in range(accesses):
            scene.cpu.write(0x5000 + n, 1, 1)
        vms.append(fingerprint(scene.vm.kvm))

    assert vms[0] == vms[1] != vms[2]
