"""What is mutated, and what hunts the mutants."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path


class MutantsError(Exception):
    """The hunt cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Project:
    """A folder with a package and its tests.

    Parameters
    ----------
    root :
        The folder; pytest's own root.
    package :
        The package to be mutated, a folder below the root.
    tests :
        The folder of tests below the root.

    """

    root: Path
    package: str
    tests: str

    def sources(self) -> list[str]:
        """The paths of the package's files below the root, in order."""
        return sorted(str(path.relative_to(self.root)) for path in (self.root / self.package).rglob("*.py"))

    def module(self, path: str) -> str:
        """The name by which a file of the package is imported."""
        parts = Path(path).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def read(self, path: str) -> str:
        """The text of a file."""
        return (self.root / path).read_text(encoding="utf-8")

    @cached_property
    def digest(self) -> str:
        """Changes with every file of the package and of the tests, data included."""
        sha = hashlib.sha256()
        for folder in (self.package, self.tests):
            for path in sorted((self.root / folder).rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    sha.update(f"{path.relative_to(self.root)}\0".encode() + path.read_bytes())
        return sha.hexdigest()
