"""All that can be done to a file: the operators of cosmic-ray, and one that it lacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.operators.provider import OperatorProvider
from parso.python.tree import Keyword

from mutants.project import Project

_EFFECTS: Final = frozenset({"atom_expr", "power", "yield_expr", "del_stmt", "raise_stmt"})
"""Statements that are there for what they do: calls, points to be overtaken at, deletions, raises."""
_STORES: Final = frozenset({"annassign", "atom_expr", "power"})
_FAMILIES: Final = {
    "ReplaceBinaryOperator": ("operator",),
    "ReplaceComparisonOperator": ("comparison",),
    "ReplaceUnaryOperator": ("factor", "not_test"),
}
"""Operators that differ in what they put in the place only, and the nodes that they look for."""


class DeleteStatement(Operator):  # type: ignore[misc]  # cosmic-ray has no types
    """Leaves a statement out: a call, a store, a yield, a raise. Not a binding of a name: that crashes at once."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """Where this operator can act on a node."""
        if node.parent is not None and node.parent.type == "simple_stmt" and self._matters(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """The node that takes the place of `node`."""
        return Keyword("pass", node.start_pos, prefix=node.get_first_leaf().prefix)

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        """Before and after."""
        return (Example("flush()\n", "pass\n"), Example("self.count += 1\n", "pass\n"))

    @staticmethod
    def _matters(node: Any) -> bool:
        if node.type != "expr_stmt":
            return node.type in _EFFECTS or (node.type == "keyword" and node.value in ("yield", "raise"))
        target, operator = node.children[:2]
        return operator.type == "operator" and (operator.value != "=" or target.type in _STORES)


def _operators() -> dict[str, Any]:
    provider = OperatorProvider()
    classes = {name: provider[name] for name in provider}
    found = {name: made() for name, made in classes.items() if not made.arguments()}
    return found | {DeleteStatement.__name__: DeleteStatement()}


OPERATORS: Final = _operators()


@dataclass(frozen=True, order=True)
class Mutant:
    """The n-th thing that an operator can do to a file.

    Parameters
    ----------
    path :
        The file, below the project's root.
    start, end :
        Where, as line from 1 and column from 0.
    operator :
        The name of the operator.
    occurrence :
        Counts what the operator can do to the file, from 0.

    """

    path: str
    start: tuple[int, int]
    end: tuple[int, int]
    operator: str
    occurrence: int

    @property
    def id(self) -> str:
        """Its name, from which :func:`mutant` makes it again."""
        return f"{self.path}:{self.operator}:{self.occurrence}"

    @property
    def kind(self) -> str:
        """Its operator, or the family that its operator belongs to."""
        return _family(self.operator) or self.operator

    @property
    def place(self) -> tuple[str, tuple[int, int], str]:
        """What the mutants of a family at one place share."""
        return self.path, self.start, self.kind


def mutants_of(project: Project, path: str) -> Iterator[Mutant]:
    """All mutants of a file."""
    nodes = list(ast_nodes(get_ast(project.read(path))))
    by_family = {
        family: [node for node in nodes if node.type in types] for family, types in _FAMILIES.items()
    }
    for operator in OPERATORS:
        yield from _mutants(path, operator, by_family.get(_family(operator), nodes))


def mutant(project: Project, name: str) -> Mutant:
    """The mutant of that id."""
    path, operator, occurrence = name.rsplit(":", 2)
    found = _mutants(path, operator, ast_nodes(get_ast(project.read(path))))
    return next(islice(found, int(occurrence), None))


def mutated(project: Project, of: Mutant) -> str:
    """The file's text with the mutation in it."""
    return str(mutate_code(project.read(of.path), OPERATORS[of.operator], of.occurrence))


def _mutants(path: str, operator: str, nodes: Iterable[Any]) -> Iterator[Mutant]:
    positions = (position for node in nodes for position in OPERATORS[operator].mutation_positions(node))
    for occurrence, (start, end) in enumerate(positions):
        yield Mutant(path, start, end, operator, occurrence)


def _family(operator: str) -> str:
    return next((family for family in _FAMILIES if operator.startswith(family)), "")
