"""Short scenarios for a test: their text, and how it is read."""

from collections.abc import Callable
from typing import Final, TypeAlias

from mmu_model.scenario import Scenario

Reader: TypeAlias = Callable[[str], Scenario]

HEAD: Final = """\
title: A test.
mode: 4-level
memory:
  1: {base: 2M, size: 2M}
tables:
  main:
    - {at: 0x40000000, to: 2M, count: 2}
"""
"""Its lines are 1 to 7; what is put behind begins with line 8, and steps with line 9."""


def with_steps(*steps: str, head: str = HEAD) -> str:
    """A scenario of these steps."""
    return head + "steps:\n" + "".join(f"  - {step}\n" for step in steps)
