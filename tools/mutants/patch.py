"""A mutation put into a package that is imported already: other code in the place of a function's.

What an import executes cannot be changed so; that takes an import of the mutated module.
"""

from __future__ import annotations

import ast
import gc
from collections.abc import Iterator
from types import CodeType, FunctionType

Name = tuple[str, int]
"""A function's qualified name and its first line, that of its first decorator."""


def function_at(source: str, line: int) -> Name | None:
    """The outermost function whose body a line belongs to."""
    inner = [(node, "") for node in ast.parse(source).body]
    while inner:
        node, prefix = inner.pop()
        if not node.lineno <= line <= (node.end_lineno or 0):
            continue
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            return (f"{prefix}{node.name}", first) if line >= node.body[0].lineno else None
        name = f"{prefix}{node.name}." if isinstance(node, ast.ClassDef) else prefix
        inner.extend((child, name) for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt))
    return None


def replace(module: CodeType, name: Name) -> bool:
    """Let all functions of that name in that module's file run the module's code; False if that cannot be done."""
    new = next((code for code in _codes(module) if (code.co_qualname, code.co_firstlineno) == name), None)
    if new is None:
        return False
    functions = [
        thing
        for thing in gc.get_objects()
        if isinstance(thing, FunctionType)
        and thing.__code__.co_filename == module.co_filename
        and (thing.__code__.co_qualname, thing.__code__.co_firstlineno) == name
    ]
    if any(function.__code__.co_freevars != new.co_freevars for function in functions):
        return False
    for function in functions:
        function.__code__ = new
    return bool(functions)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
