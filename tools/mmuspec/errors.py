"""What can go wrong with something that came from outside, said where and with a way out."""

from __future__ import annotations

from pathlib import Path


class Problem(Exception):
    """Bad input: a document, a spec file, a results file or an output folder.

    Shown as ``FILE:LINE: error: MESSAGE``; the command line turns it into exit status 2.
    """

    def __init__(self, message: str, where: str | Path = "mmuspec", line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = str(where)
        self.line = line

    def __str__(self) -> str:
        place = self.where if self.line is None else f"{self.where}:{self.line}"
        return f"{place}: error: {self.message}"
