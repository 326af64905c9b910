"""The page frames that random cases use: few, so that the emulator has them mapped, and spread, so that every
address bit is used. Tables, guests' tables and what holds a guest's tables never share a frame by accident,
because words of 4 and of 8 bytes would overlap; tables of one kind do.
"""

from __future__ import annotations

import random

from tests.oracle.scaffold import WINDOW

_WINDOW_REGION = WINDOW >> 30


def _spread(seed: int, count: int, *widths: int, unit: int = 12) -> tuple[int, ...]:
    """``count`` frames of 2**unit bytes below 2**width for each width, none in the window's gigabyte."""
    rng = random.Random(seed)
    frames: list[int] = []
    for width in widths:
        while len(frames) < count * (widths.index(width) + 1):
            frame = rng.getrandbits(width - unit) << unit
            if frame >> 30 != _WINDOW_REGION and frame not in frames:
                frames.append(frame)
    return tuple(frames)


TABLES = _spread(1, 24, 32, 36, 40)
"""Frames of tables at physical addresses: a plain case's, or a host's nested ones."""

GUEST_TABLES = _spread(2, 12, 32, 36, 40)
"""Guest-physical frames of a guest's tables."""

BACKING = {
    12: _spread(3, 24, 32, 36, 40),
    21: _spread(4, 6, 32, 36, 40, unit=21),
    30: _spread(5, 2, 32, 36, 40, unit=30),
}
"""Where a host may put a guest's tables: frames by the binary logarithm of their size."""


def below(frames: tuple[int, ...], width: int) -> list[int]:
    """The frames that ``width`` address bits reach."""
    return [frame for frame in frames if frame >> width == 0]


def random_page(rng: random.Random, unit: int, width: int) -> int:
    """Any page of 2**unit bytes below 2**width, but for the one that the oracle's own frames are in."""
    while True:
        page = rng.getrandbits(width - unit) << unit
        if page >> unit != WINDOW >> unit and (unit > 12 or page >> 20 != WINDOW >> 20):
            return page
