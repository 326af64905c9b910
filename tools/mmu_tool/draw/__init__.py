"""Drawings of snapshots: shadow pages by level, the entries that point, the parents that point back, and what
changed from one step to the next.

``match`` tells what became of each page, ``fold`` and ``rows`` what is worth its room, ``compose`` makes the
picture, ``layout`` gives it places, ``svg`` and ``text`` say it to eyes and ears. Nothing here reads the model:
a recording of a real kernel is drawn the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mmu_model.snapshot import Recording, Snapshot

from .compose import compose
from .layout import lay_out
from .match import Step, step, steps
from .svg import svg
from .text import describe

__all__ = ["Drawing", "draw", "drawings"]


@dataclass(frozen=True)
class Drawing:
    """``svg`` is the text of a file; ``text`` says the same in words."""

    title: str
    svg: str
    text: str


def draw(snapshot: Snapshot, before: Snapshot | None = None, *, title: str = "") -> Drawing:
    """One snapshot in canonical form and, if one ``before`` is given, what changed since."""
    return _drawing(step(snapshot, before), title or snapshot.name or "snapshot")


def drawings(recording: Recording) -> Iterator[Drawing]:
    """All snapshots of a recording in order, each with what changed since the last; a page keeps its name."""
    for each in steps(recording.snapshots):
        yield _drawing(each, f"{recording.scenario}: {each.after.snapshot.name}")


def _drawing(of: Step, title: str) -> Drawing:
    picture = compose(of, title)
    return Drawing(title, svg(lay_out(picture)), describe(picture))
