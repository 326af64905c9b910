"""Accounts: what a whole recording tells, the results of its steps included: what the guest read, its faults, the
dirty logs.

An account comes with a recording that it must refuse: this one with something else in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from mmu_model.scenario.schema import KERNELS
from mmu_model.snapshot import MmuKind, Recording, Snapshot

from .story import SHADOW

Telling: TypeAlias = Callable[[Recording], Iterator[str]]
Falsification: TypeAlias = Callable[[Recording], Recording]


@dataclass(frozen=True)
class Account:
    """``tell`` is given the recordings of ``scenario`` for each of ``mmus`` and ``kernels``, and yields what contradicts
    the statements; of what ``falsify`` makes of them, something must."""

    statements: tuple[str, ...]
    scenario: str
    mmus: tuple[MmuKind, ...]
    kernels: tuple[str, ...]
    falsify: Falsification
    tell: Telling

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.tell.__name__


ACCOUNTS: list[Account] = []


def account(
    *statements: str,
    scenario: str,
    falsify: Falsification,
    mmus: tuple[MmuKind, ...] = SHADOW,
    kernels: tuple[str, ...] = KERNELS,
) -> Callable[[Telling], Telling]:
    """Registers an account for the statements of these ids."""

    def register(tell: Telling) -> Telling:
        ACCOUNTS.append(Account(statements, scenario, mmus, kernels, falsify, tell))
        return tell

    return register


def at(recording: Recording, name: str) -> Snapshot:
    """A snapshot by its name."""
    return next(snapshot for snapshot in recording.snapshots if snapshot.name == name)


def values(recording: Recording) -> list[int | None]:
    """What the guest read, in order; None for a step that faulted or gave a dirty log."""
    return [result.value for result in recording.results]


def page_faults(recording: Recording) -> list[tuple[int | None, int | None]]:
    """Error code and CR2 of each page fault of the guest, in order."""
    return [(result.error_code, result.cr2) for result in recording.results if result.vector == 14]


def other_result(number: int, **fields: Any) -> Falsification:
    """The recording with other fields in a result."""

    def falsify(recording: Recording) -> Recording:
        results = list(recording.results)
        results[number] = replace(results[number], **fields)
        return replace(recording, results=tuple(results))

    return falsify


def other_snapshot(name: str, change: Callable[[Snapshot], Snapshot]) -> Falsification:
    """The recording with another state in the place of a snapshot."""

    def falsify(recording: Recording) -> Recording:
        snapshots = (change(each) if each.name == name else each for each in recording.snapshots)
        return replace(recording, snapshots=tuple(snapshots))

    return falsify


def same_as(name: str, earlier: str) -> Falsification:
    """The recording with the state of an earlier snapshot in the place of another: nothing happened."""

    def falsify(recording: Recording) -> Recording:
        before = replace(at(recording, earlier), name=name)
        return other_snapshot(name, lambda _: before)(recording)

    return falsify
