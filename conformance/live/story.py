"""Stories: what the document says happens at an event, told by two snapshots of a recording."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from mmu_model.scenario.schema import KERNELS
from mmu_model.snapshot import Kind, MmuKind, ShadowPage, Snapshot, Spte

from .predicate import leaf_gfn

Tale: TypeAlias = Callable[[Snapshot, Snapshot], Iterator[str]]


@dataclass(frozen=True)
class Story:
    """``tell`` is given the snapshots ``before`` and ``after`` of ``scenario``, for each of ``mmus`` and
    ``kernels``, and yields what contradicts it. It must refuse two equal snapshots: nothing happened there.

    With ``refutes`` it tells what happens other than the statements say.
    """

    statements: tuple[str, ...]
    scenario: str
    before: str
    after: str
    mmus: tuple[MmuKind, ...]
    kernels: tuple[str, ...]
    refutes: bool
    tell: Tale

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.tell.__name__


STORIES: list[Story] = []
SHADOW = (MmuKind.SHADOW,)
ALL = tuple(MmuKind)


def story(
    *statements: str,
    scenario: str,
    before: str,
    after: str,
    mmus: tuple[MmuKind, ...] = SHADOW,
    kernels: tuple[str, ...] = KERNELS,
    refutes: bool = False,
) -> Callable[[Tale], Tale]:
    """Registers a story for (or against) the statements of these ids."""

    def register(tell: Tale) -> Tale:
        STORIES.append(Story(statements, scenario, before, after, mmus, kernels, refutes, tell))
        return tell

    return register


def leaves(snapshot: Snapshot, gfn: int) -> list[tuple[ShadowPage, Spte]]:
    """The leaf entries whose first frame is ``gfn``, outside of SMM."""
    return [
        (page, spte)
        for page in snapshot.pages
        if not page.role.smm
        for index, spte in page.sptes().items()
        if spte.kind is Kind.LEAF and leaf_gfn(page, index) == gfn
    ]


def shadows(snapshot: Snapshot, gfn: int, level: int) -> list[ShadowPage]:
    """The shadow pages of the table at ``gfn``."""
    return [
        page
        for page in snapshot.pages
        if page.gfn == gfn and page.role.level == level and not page.role.direct
    ]
