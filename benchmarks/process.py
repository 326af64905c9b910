"""Whole processes, measured from outside."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

ROUNDS = 7


class Cost(NamedTuple):
    """What one run of a command took: seconds by the clock, and the most memory it had, in MiB."""

    seconds: float
    mib: float


def cost(command: Sequence[str]) -> Cost:
    """One run. Raises RuntimeError if the command fails: then there is nothing to measure."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
    return Cost(took, usage.ru_maxrss / 1024)


def costs(*commands: Sequence[str], rounds: int = ROUNDS) -> list[Cost]:
    """The best of some rounds for each command, run in turn so that all of them meet the same weather."""
    runs = [[cost(command) for command in commands] for _ in range(rounds + 1)][1:]
    return [Cost(*map(min, zip(*column, strict=True))) for column in zip(*runs, strict=True)]


def python(code: str) -> list[str]:
    """The command that runs some Python."""
    return [sys.executable, "-c", code]
