"""The members of a struct or union, as the C sources have them: types, bit-fields, unions, and conditions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from mmuspec.errors import Problem

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

STRUCT, UNION = "struct_specifier", "union_specifier"
CONDITIONS = frozenset({"preproc_ifdef", "preproc_if", "preproc_else", "preproc_elif", "preproc_elifdef"})
BITMAP = "DECLARE_BITMAP"


@dataclass(frozen=True, slots=True)
class Member:
    """A member with a name.

    `bits` is the width of a bit-field, else None; `union` numbers the anonymous union that it shares its
    storage in, 0 for none; `conditions` are the preprocessor's, outermost first, ``!`` before a negated one;
    `kind` is the type as it is written, `path` and `line` say where.
    """

    name: str
    kind: str
    path: str
    line: int
    bits: int | None = None
    union: int = 0
    conditions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct or union and its members, in order. Those of anonymous members are its own, as in C."""

    name: str
    path: str
    line: int
    members: tuple[Member, ...]


def find_struct(files: Mapping[str, bytes], name: str, *, kind: str = STRUCT) -> Struct:
    """The struct (or union) of this name that has a body. Raises `Problem` if no header has it."""
    word = name.encode()
    headers = sorted(path for path, data in files.items() if path.endswith(".h") and word in data)
    for path in headers:
        node = _definition(_parser().parse(files[path]).root_node, kind, word)
        if node is not None:
            members = tuple(_Walk(path).members(node))
            return Struct(name, path, node.start_point[0] + 1, members)
    raise Problem(f"no header here defines {name}; is this a tree with KVM for x86 in it?")


@cache
def _parser() -> Parser:
    import tree_sitter_c
    from tree_sitter import Language, Parser

    return Parser(Language(tree_sitter_c.language()))


def _definition(node: Node, kind: str, name: bytes) -> Node | None:
    if node.type == kind and node.child_by_field_name("body"):
        named = node.child_by_field_name("name")
        if named is not None and named.text == name:
            return node
    for child in node.children:
        found = _definition(child, kind, name)
        if found is not None:
            return found
    return None


class _Walk:
    """Goes through the body of a struct; numbers the anonymous unions that it meets."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.unions = 0

    def members(self, node: Node) -> Iterator[Member]:
        yield from self._body(node.child_by_field_name("body"), 0, ())

    def _body(self, body: Node | None, union: int, conditions: tuple[str, ...]) -> Iterator[Member]:
        for child in body.children if body else ():
            if child.type == "field_declaration":
                yield from self._field(child, union, conditions)
            elif child.type in CONDITIONS:
                yield from self._conditional(child, union, conditions, ())

    def _conditional(
        self, node: Node, union: int, conditions: tuple[str, ...], failed: tuple[str, ...]
    ) -> Iterator[Member]:
        """An #if and what is in it; an #else has all conditions before it, negated."""
        own = _condition(node)
        inside = (*conditions, *failed, *([own] if own else []))
        for child in node.children:
            if child.type == "field_declaration":
                yield from self._field(child, union, inside)
            elif child.type in ("preproc_else", "preproc_elif", "preproc_elifdef"):
                yield from self._conditional(child, union, conditions, (*failed, _negated(own)))
            elif child.type in CONDITIONS:
                yield from self._conditional(child, union, inside, ())

    def _field(self, node: Node, union: int, conditions: tuple[str, ...]) -> Iterator[Member]:
        kind = node.child_by_field_name("type")
        body = kind.child_by_field_name("body") if kind else None
        declarators = node.children_by_field_name("declarator")
        if kind is not None and body is not None and not declarators:
            if kind.type == UNION:
                self.unions += 1
                inner = self.unions
                yield from (
                    replace(member, union=member.union or inner) for member in self._body(body, 0, conditions)
                )
            else:
                yield from self._body(body, union, conditions)
            return
        bits = next((_number(child) for child in node.children if child.type == "bitfield_clause"), None)
        for name in map(_name, declarators or ([kind] if kind else [])):
            if name is not None and name.text:
                yield Member(
                    name.text.decode(),
                    _text(kind),
                    self.path,
                    name.start_point[0] + 1,
                    bits,
                    union,
                    conditions,
                )


def _name(declarator: Node) -> Node | None:
    """The name that a declarator, or a macro that declares a bitmap, gives."""
    if declarator.type == "field_identifier":
        return declarator
    if declarator.type == "macro_type_specifier":
        macro = declarator.child_by_field_name("name")
        if macro is None or _text(macro) != BITMAP:
            return None
        described = declarator.child_by_field_name("type")
        return described.child_by_field_name("type") if described else None
    inner = declarator.child_by_field_name("declarator")
    if inner is not None:
        return _name(inner)
    return next((found for child in declarator.named_children if (found := _name(child))), None)


def _condition(node: Node) -> str:
    """The name that an #ifdef tests, ``!`` before it for #ifndef; what any other #if tests, as it stands."""
    named = node.child_by_field_name("name")
    if named is not None:
        negated = any(child.type in ("#ifndef", "#elifndef") for child in node.children)
        return f"{'!' * negated}{_text(named)}"
    tested = node.child_by_field_name("condition")
    return _text(tested) if tested is not None else ""


def _negated(condition: str) -> str:
    return condition[1:] if condition.startswith("!") else f"!{condition}"


def _number(clause: Node) -> int | None:
    text = _text(next(iter(clause.named_children), None))
    return int(text, 0) if text.isalnum() and text[0].isdigit() else None


def _text(node: Node | None) -> str:
    return " ".join(node.text.decode("utf-8", "replace").split()) if node is not None and node.text else ""
