"""The page frames of random cases: few, for the emulator to have them mapped, and all over physical memory.

A host's tables never share a frame with a guest's, because words of 4 and of 8 bytes would overlap.
"""

from __future__ import annotations

import random

from tests.oracle.scaffold import WINDOW


def _spread(seed: int, count: int, *widths: int, unit: int = 12, parity: int = 0) -> tuple[int, ...]:
    """``count`` frames of 2**unit bytes below 2**width for each width, none in the window's gigabyte.

    The parity of bits 20:12 keeps kinds apart; it is a guest's own even where large pages are below it.
    """
    rng = random.Random(seed)
    frames: set[int] = set()
    for number, width in enumerate(widths, start=1):
        while len(frames) < count * number:
            frame = rng.getrandbits(width - unit) << unit
            if frame >> 30 != WINDOW >> 30 and (frame >> 12 & 0x1FF).bit_count() % 2 == parity:
                frames.add(frame)
    return tuple(sorted(frames))


TABLES = _spread(1, 24, 32, 36, 40, parity=1)
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
