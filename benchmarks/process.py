"""Whole processes, measured from outside."""

import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

ROUNDS = 7


class Cost(NamedTuple):
    """What one run of a command took: seconds by the clock, and the most memory it had, in MiB."""

    seconds: float
    mib: float


LAUNCHER = """
import os, sys, time
begin = time.perf_counter()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[
    (os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)])
_, status, usage = os.wait4(pid, 0)
print(time.perf_counter() - begin, usage.ru_maxrss / 1024, os.waitstatus_to_exitcode(status))
"""


def cost(command: Sequence[str], ends_with: int = 0) -> Cost:
    """One run, started by a small process: a child counts the memory of what started it as its own.

    Raises RuntimeError if the command ends with another status: then there is nothing to measure.
    """
    launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, *command]
    seconds, mib, status = subprocess.run(launcher, check=True, capture_output=True, text=True).stdout.split()
    if int(status) != ends_with:
        raise RuntimeError(f"{' '.join(command)} ended with status {status}")
    return Cost(float(seconds), float(mib))


def costs(*commands: Sequence[str], rounds: int = ROUNDS) -> list[Cost]:
    """The best of some rounds for each command, run in turn so that all of them meet the same weather."""
    runs = [[cost(command) for command in commands] for _ in range(rounds + 1)][1:]
    return [Cost(*map(min, zip(*column, strict=True))) for column in zip(*runs, strict=True)]


def python(code: str) -> list[str]:
    """The command that runs some Python."""
    return [sys.executable, "-c", code]
