"""Which mutants are no fair ones: nobody could tell them from the original, or nobody should.

The table at the end is the policy; the first row that applies gives the kind under which a mutant is counted.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final

from mutants.mutations import Mutant

_SAME_ON_SINGLETONS: Final = frozenset({"Eq_Is", "Is_Eq", "NotEq_IsNot", "IsNot_NotEq"})
_SAME_ON_FLAGS: Final = frozenset(
    {"BitOr_Add", "BitOr_BitXor", "Add_BitOr", "Add_BitXor", "BitXor_BitOr", "BitXor_Add"}
)
_DECLARING: Final = frozenset(
    {"Protocol", "abstractmethod", "final", "overload", "override", "runtime_checkable"}
)
_CACHING: Final = frozenset({"cache", "lru_cache"})
_OF_TYPES: Final = frozenset({"NewType", "TypeVar", "ParamSpec", "cast"})
_SHOWING: Final = frozenset({"__repr__", "__str__", "__rich_repr__"})
_LAYOUT: Final = frozenset({"frozen", "slots", "kw_only", "repr"})
"""What a dataclass is told about how it is made and shown, not about what it is."""


@dataclass(frozen=True)
class Site:
    """A mutant, and the nodes around its place, from the module inwards."""

    mutant: Mutant
    chain: tuple[ast.AST, ...]

    @cached_property
    def edges(self) -> list[tuple[ast.AST, ast.AST]]:
        """Each node with its child on the way."""
        return list(pairwise(self.chain))

    def inside(self, *kinds: type[ast.AST]) -> bool:
        """Is the place within a node of that kind?"""
        return any(isinstance(node, kinds) for node in self.chain)


class Sites:
    """The places of one file."""

    def __init__(self, source: str) -> None:
        self._tree = ast.parse(source)
        self._lines = source.splitlines()

    def site(self, mutant: Mutant) -> Site:
        """The place of a mutant."""
        line, column = mutant.start
        in_bytes = len(self._lines[line - 1][:column].encode())
        if mutant.operator == "RemoveDecorator":
            in_bytes += 1  # behind the @
        chain: list[ast.AST] = [self._tree]
        while inner := _child_at(chain[-1], (line, in_bytes)):
            chain.append(inner)
        return Site(mutant, tuple(chain))


def _child_at(node: ast.AST, at: tuple[int, int]) -> ast.AST | None:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.arguments | ast.comprehension | ast.withitem | ast.match_case):
            if inner := _child_at(child, at):
                return inner
        elif isinstance(child, ast.stmt | ast.expr | ast.excepthandler | ast.arg | ast.keyword | ast.pattern):
            decorators = getattr(child, "decorator_list", [])
            first = min([child, *decorators], key=lambda part: part.lineno)
            if (first.lineno, first.col_offset) <= at < (child.end_lineno or 0, child.end_col_offset or 0):
                return child
    return None


def _annotation(site: Site) -> bool:
    return any(
        child in (getattr(node, "annotation", None), getattr(node, "returns", None))
        for node, child in site.edges
    )


def _type(site: Site) -> bool:
    """In an alias, in what is told to a type variable or a cast, or in the bases of a class."""
    for node, child in site.edges:
        if isinstance(node, ast.Call) and _name(node.func) in _OF_TYPES and child is not node.args[-1]:
            return True
        if isinstance(node, ast.ClassDef) and child in node.bases:
            return True
        if isinstance(node, ast.Assign) and isinstance(site.chain[-2], ast.Module | ast.Assign):
            alias = node.targets[0]
            if isinstance(alias, ast.Name) and not alias.id.isupper() and alias.id[0].isupper():
                return True
    return False


def _declaration(site: Site) -> bool:
    for node, child in site.edges:
        if isinstance(node, ast.ClassDef) and any(_name(base) in _DECLARING for base in node.bases):
            return True
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            if any(_name(decorator) in _DECLARING for decorator in node.decorator_list):
                return True
            in_decorator = child in node.decorator_list and isinstance(site.chain[-1], ast.Constant)
            if in_decorator and any(isinstance(n, ast.keyword) and n.arg in _LAYOUT for n in site.chain):
                return True
    return False


def _speed(site: Site) -> bool:
    return any(
        isinstance(node, ast.FunctionDef) and child in node.decorator_list and _name(child) in _CACHING
        for node, child in site.edges
    )


def _text(site: Site) -> bool:
    shown = any(isinstance(node, ast.FunctionDef) and node.name in _SHOWING for node in site.chain)
    return shown or (site.inside(ast.Raise, ast.Assert) and site.inside(ast.JoinedStr))


def _not_run(site: Site) -> bool:
    """Under ``if TYPE_CHECKING`` or ``if __name__ == "__main__"``."""
    names = ("TYPE_CHECKING", "__name__")
    return any(
        isinstance(node, ast.If) and any(f"{name!r}" in ast.dump(node.test) for name in names)
        for node in site.chain
    )


def _identity(site: Site) -> bool:
    return site.mutant.operator.removeprefix("ReplaceComparisonOperator_") in _SAME_ON_SINGLETONS


def _flags(site: Site) -> bool:
    return site.mutant.operator.removeprefix("ReplaceBinaryOperator_") in _SAME_ON_FLAGS


def _name(node: ast.AST) -> str:
    """The last name of ``a.b.name(...)`` or ``name[...]``."""
    match node:
        case ast.Call(func=inner) | ast.Subscript(value=inner):
            return _name(inner)
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


KINDS: Final[dict[str, tuple[str, Callable[[Site], bool]]]] = {
    "annotation": ("nothing reads it at run time", _annotation),
    "type": ("an alias or a variable for the type checker", _type),
    "declaration": ("abstract, or how a dataclass is laid out: the type checker's matter", _declaration),
    "caching": ("changes the speed only", _speed),
    "text": ("what an error or a repr says", _text),
    "not run": ("for the type checker, or for a start as a program", _not_run),
    "identity": ("is and == do not differ on enums, None and small numbers", _identity),
    "flags": ("|, + and ^ do not differ on flags and fields that do not overlap", _flags),
}
"""Each kind with its reason and its test."""


def left_out(site: Site) -> str:
    """The kind under which a mutant is left out, or nothing."""
    return next((kind for kind, (_, applies) in KINDS.items() if applies(site)), "")
