"""Drawings of what a test saw, attached to its results for the report.

The picture of one kernel is enough: the newest. A test asks for one when it has asserted all, so that no picture
is made of a model that is broken on purpose and was noticed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from mmu_model.kernels import KERNELS
from mmu_model.machine import VirtualMachine
from mmu_model.snapshot import Snapshot, canonical
from mmu_tool.draw import draw

Attach: TypeAlias = Callable[[str, str, bytes, str], None]

NEWEST = list(KERNELS)[-1]


class Camera:
    """Draws for one test. Call it with what the picture shows, and a VM or a snapshot of one; with an earlier
    snapshot it shows what changed since."""

    def __init__(self, attach: Attach, kernel: str) -> None:
        self.attach = attach
        self.kernel = kernel

    def __call__(self, title: str, state: VirtualMachine | Snapshot, before: Snapshot | None = None) -> None:
        if self.kernel != NEWEST:
            return
        snapshot = state if isinstance(state, Snapshot) else state.snapshot()
        drawing = draw(canonical(snapshot), canonical(before) if before else None, title=title)
        self.attach(f"{title} (Linux {self.kernel})", "image/svg+xml", drawing.svg.encode(), drawing.text)
