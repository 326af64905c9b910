"""Wrong models on purpose: the registry that `@violates` fills.

A violation is a function that takes whatever the conformance suite hands it (the model, ready to be changed)
and breaks one statement. Its name is the function's, its docstring says what the wrong model does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Break = Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class Violation:
    """One wrong model, and the ids of the statements that it breaks."""

    name: str
    ids: tuple[str, ...]
    apply: Break
    file: str
    line: int

    @property
    def where(self) -> str:
        """File and line, as an error message begins."""
        return f"{self.file}:{self.line}"


class Violations:
    """All violations that were declared, by name."""

    def __init__(self) -> None:
        self._known: dict[str, Violation] = {}

    def __iter__(self) -> Iterator[Violation]:
        return iter(self._known.values())

    def add(self, violation: Violation) -> None:
        """Raises `ValueError` for a second violation of the same name declared elsewhere."""
        known = self._known.get(violation.name)
        if known and known.where != violation.where:
            raise ValueError(
                f"{violation.where}: violation {violation.name} is declared at {known.where} already"
            )
        self._known[violation.name] = violation

    def of(self, ids: set[str]) -> list[Violation]:
        """The violations that break one of the statements."""
        if not ids:  # of thousands of tests most are about no statement
            return []
        return [violation for violation in self if not ids.isdisjoint(violation.ids)]


DECLARED = Violations()


def violates(*ids: str) -> Callable[[Break], Break]:
    """Declare the decorated function a violation of the statements `ids`."""

    def declare(function: Break) -> Break:
        if not ids:
            raise ValueError(f"{function.__name__}: name the statement that it violates")
        code = inspect.unwrap(function).__code__
        violation = Violation(function.__name__, ids, function, code.co_filename, code.co_firstlineno)
        DECLARED.add(violation)
        return function

    return declare
