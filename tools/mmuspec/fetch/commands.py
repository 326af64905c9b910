"""Programs run for their output: bounded, in English, and gone when we are."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mmuspec.errors import Problem

# Set inside a git hook, these would turn `git -C TREE` away from TREE.
GIT_PLACES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_PREFIX")


@dataclass(slots=True)
class Running:
    """A program at work. `error` is what it said on standard error; complete once it has ended."""

    process: subprocess.Popen[bytes]
    _stderr: IO[bytes]

    @property
    def stdout(self) -> IO[bytes]:
        """Its output; only there if it was started with `output`."""
        if self.process.stdout is None:
            raise ValueError("started without output")
        return self.process.stdout

    @property
    def error(self) -> str:
        """Its complaints in one line: the first that it calls an error, else all; may be empty."""
        self._stderr.seek(0)
        lines = [line.strip() for line in self._stderr.read().decode("utf-8", "replace").splitlines()]
        errors = [line[2:].strip() for line in lines if line.startswith("E:")]
        return " / ".join(errors[:1] or filter(None, lines))


@contextmanager
def running(
    command: Sequence[str | Path],
    *,
    output: bool = True,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> Iterator[Running]:
    """Start a program; it is killed if still at work on leaving. Raises `Problem` if it is not installed."""
    with tempfile.TemporaryFile() as stderr:
        try:
            process = subprocess.Popen(  # noqa: S603  no shell; what the arguments may be is checked by callers
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if output else subprocess.DEVNULL,
                stderr=stderr,
                cwd=cwd,
                pass_fds=pass_fds,
                env=_environment(os.environ),
            )
        except FileNotFoundError:
            raise Problem("is not installed", str(command[0])) from None
        except OSError as error:
            raise Problem(f"cannot be run: {error.strerror or error}", str(command[0])) from None
        try:
            yield Running(process, stderr)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def output_of(command: Sequence[str | Path], limit: int) -> tuple[bytes | None, str]:
    """The first `limit` bytes of what a program prints, or None and its complaint if it fails.

    A failure without a word has an empty complaint. Raises as `running` does.
    """
    with running(command) as program:
        data = program.stdout.read(limit)
        if len(data) == limit or program.process.wait() == 0:
            return data, ""
        return None, program.error


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    kept = {key: value for key, value in given.items() if key not in GIT_PLACES}
    return kept | {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}
