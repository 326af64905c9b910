"""The tests of statements: found in the text of the tests, their outcomes from the last run if there was one.

Reading the marks needs no run, so that a review names the test which refutes a statement even where nothing
has been run. Only files in which one of the ids stands are read at all.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

from mmuspec.results import Results, Test

FOLDER = "conformance"
MARK = "spec"


def known_tests(ids: Collection[str], root: Path, results: Results | None) -> dict[str, tuple[Test, ...]]:
    """The tests that name each of `ids`; `root` is the folder that has ``conformance/`` in it."""
    found: dict[str, dict[str, Test]] = defaultdict(dict)
    for statement in results.statements if results else ():
        if statement.id in ids:
            for test in statement.tests:
                found[statement.id][test.nodeid] = test
    for path in sorted((root / FOLDER).glob("**/test_*.py")):
        for statement_id, test in _marked(path, path.relative_to(root).as_posix(), ids):
            ran = any(nodeid.partition("[")[0] == test.nodeid for nodeid in found[statement_id])
            if not ran:
                found[statement_id][test.nodeid] = test
    return {statement_id: tuple(tests.values()) for statement_id, tests in found.items() if tests}


def _marked(path: Path, name: str, ids: Collection[str]) -> Iterator[tuple[str, Test]]:
    try:
        source = path.read_text(encoding="utf-8")
        if not any(each in source for each in ids):
            return
        tree = ast.parse(source)
    except (OSError, ValueError, SyntaxError):
        return  # pytest says what is wrong with it
    for qualified, node in _functions(tree.body, name):
        for decorator in node.decorator_list:
            mark = _mark(decorator)
            if mark and mark[0] in ids:
                yield mark[0], Test(qualified, "", mark[1])


def _functions(body: list[ast.stmt], name: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            yield f"{name}::{node.name}", node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node.body, f"{name}::{node.name}")


def _mark(decorator: ast.expr) -> tuple[str, bool] | None:
    """Id and `refutes` of ``@pytest.mark.spec("ID", refutes=True)``."""
    if not (isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Attribute)):
        return None
    if decorator.func.attr != MARK or not decorator.args:
        return None
    first = decorator.args[0]
    refutes = any(
        keyword.arg == "refutes" and isinstance(keyword.value, ast.Constant) and keyword.value.value is True
        for keyword in decorator.keywords
    )
    return (str(first.value), refutes) if isinstance(first, ast.Constant) else None
