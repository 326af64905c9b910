"""Where in a checkout the tests and violations stand that results name, and what they say of themselves.

Results name functions; lines move with every edit. So they are looked up in the files as they are now.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mmuspec.text import fold

SIZE_LIMIT = 2_000_000
LONGEST_LINE_NUMBER = 10


@dataclass(frozen=True, slots=True)
class Place:
    """A line (from 1, 0 for none in particular) of a file of the checkout. `says` is the head of the docstring there."""

    path: str
    line: int = 0
    says: str = ""


class Code:
    """The files below `root`; each is read when it is first asked for. A place that is not there is None."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[str, Mapping[str, Place]] = {}

    def test(self, nodeid: str) -> Place | None:
        """The function of a node id, with or without parameters: ``tests/test_a.py::TestB::test_c[6.12]``."""
        path, _, name = nodeid.partition("[")[0].partition("::")
        return self._functions(path).get(name)

    def violation(self, name: str, where: str) -> Place | None:
        """The function `name` in the file of `where`, which is ``FILE:LINE``."""
        return self._functions(where.rpartition(":")[0]).get(name)

    def line(self, where: str) -> Place | None:
        """``FILE:LINE`` itself."""
        path, _, number = where.rpartition(":")
        return (
            Place(path, int(number))
            if number.isdecimal() and len(number) < LONGEST_LINE_NUMBER and self._inside(path)
            else None
        )

    def file(self, path: str) -> Place | None:
        """A whole file."""
        return Place(path) if self._inside(path) else None

    def _functions(self, path: str) -> Mapping[str, Place]:
        if path not in self._known:
            file = self._inside(path)
            self._known[path] = dict(_functions(path, _tree(file).body)) if file else {}
        return self._known[path]

    def _inside(self, path: str) -> Path | None:
        """The file, if results name one of the checkout and nothing else on the machine."""
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or "\0" in path or len(path) > 1000:
            return None
        try:
            file = (self.root / pure).resolve()
            return file if file.is_relative_to(self.root.resolve()) and file.is_file() else None
        except (OSError, ValueError):  # or no name of a file at all
            return None


def _tree(file: Path) -> ast.Module:
    """The file taken apart; an empty module if it is no Python."""
    try:
        if file.suffix == ".py" and file.stat().st_size <= SIZE_LIMIT:
            return ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        pass
    return ast.Module([], [])


def _functions(path: str, body: list[ast.stmt], within: str = "") -> Iterator[tuple[str, Place]]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            says = fold((ast.get_docstring(node) or "").partition("\n\n")[0])
            yield within + node.name, Place(path, node.lineno, says)
        elif isinstance(node, ast.ClassDef):
            yield from _functions(path, node.body, f"{within}{node.name}::")
