"""One mutant: is there a test that fails on it?"""

from __future__ import annotations

import ast
import functools
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import get_ident
from types import CodeType
from typing import Any, Final

from mutants.baseline import Baseline, baseline
from mutants.child import Mutated, Say, in_child, run_pytest
from mutants.mutations import Mutant, mutant, mutated
from mutants.nest import UNABLE, Nest
from mutants.patch import function_at
from mutants.project import MutantsError, Project
from mutants.watch import IMPORT, KILLED, SURVIVED, TIME, UNSEEN, Plan, Watch

_START: Final = 30.0
"""Seconds of processor time for imports, more than enough."""


@dataclass(frozen=True)
class Hunt:
    """What all mutants are judged by.

    Parameters
    ----------
    project :
        What is mutated, and its tests.
    folder :
        Where the baseline is kept.
    budget :
        Seconds of processor time for a mutant; one that is not killed within them counts as a survivor.

    """

    project: Project
    folder: Path
    budget: float

    def __call__(self, name: str) -> dict[str, Any]:
        """Judge the mutant of that id: its ``outcome``, ``how``, the ``test`` that killed it, the ``seconds``."""
        of = mutant(self.project, name)
        tests, everywhere = tests_for(self.project, _baseline(self), of)
        if not tests:
            return {"outcome": SURVIVED, "how": UNSEEN}
        code = compiled(self.project, of)
        if code is None:
            raise MutantsError(f"{name} is no mutant")
        usual = _baseline(self).seconds
        plan = Plan({test: usual[test] for test in tests}, everywhere, self.budget)
        limit = self.budget + _START
        word = self._in_nest(of, code, plan, limit)
        if word == UNABLE:
            word = in_child(self.project, limit, functools.partial(_imported, self.project, of, code, plan))
        return word or {"outcome": KILLED, "how": TIME, "test": "", "seconds": limit}

    def _in_nest(self, of: Mutant, code: CodeType, plan: Plan, limit: float) -> dict[str, Any] | None:
        """What imports execute cannot be changed in a process that has imported it."""
        function = None if plan.everywhere else function_at(self.project.read(of.path), of.start[0])
        return _nest(self.project, get_ident()).judge(limit, code, function, plan) if function else UNABLE


@functools.lru_cache(maxsize=1)
def _baseline(hunt: Hunt) -> Baseline:
    return baseline(hunt.project, hunt.folder)


@functools.lru_cache
def _nest(project: Project, _thread: int) -> Nest:
    """Each thread that judges has its own."""
    return Nest(project)


def compiled(project: Project, of: Mutant) -> CodeType | None:
    """The mutated module's code; None if it is no Python, or the same as before."""
    try:
        source = mutated(project, of)
    except AttributeError:  # cosmic-ray cannot replace an exception that has a dot in its name
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(source)
            same = ast.dump(tree) == ast.dump(ast.parse(project.read(of.path)))
            return None if same else compile(tree, str(project.root / of.path), "exec")
        except (SyntaxError, ValueError):
            return None


def tests_for(project: Project, known: Baseline, of: Mutant) -> tuple[list[str], bool]:
    """The tests that could notice a mutant, in order; and are these all that there are?

    The quickest come first, but one case of each test before the second case of any: cases of one test see much the same.
    What an import executes (tables, constants, classes) can be noticed by any test; those that execute a line which
    has its name in it come first, then those that execute something of the file.
    """
    imported, tests = known.at(of.path, _lines(project.read(of.path), of.start[0]))
    if not imported:
        return _varied(tests, known.seconds), False
    near, naming = known.of(of.path), _that_name(project, known, of)
    order = _varied(known.seconds, known.seconds)
    return sorted(order, key=lambda test: (test not in naming, test not in near)), True


def _varied(tests: Iterable[str], seconds: dict[str, float]) -> list[str]:
    turns: Counter[str] = Counter()
    keys: dict[str, tuple[int, float]] = {}
    for test in sorted(tests, key=seconds.__getitem__):
        function = test.split("[")[0]
        turns[function] += 1
        keys[test] = turns[function], seconds[test]
    return sorted(keys, key=keys.__getitem__)


def _that_name(project: Project, known: Baseline, of: Mutant) -> set[str]:
    """The tests that execute a line with the name of what a mutated statement defines."""
    names = _defined(project.read(of.path), of.start[0])
    if not names:
        return set()
    word = re.compile(rf"\b({'|'.join(map(re.escape, sorted(names)))})\b")
    tests: set[str] = set()
    for path in project.sources():
        for number, line in enumerate(project.read(path).splitlines(), 1):
            if word.search(line):
                tests |= known.at(path, range(number, number + 1))[1]
    return tests


def _defined(source: str, line: int) -> set[str]:
    """The names that the statement at a line binds."""
    lines, names = _lines(source, line), set[str]()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.stmt) or node.lineno not in lines:
            continue
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def _lines(source: str, line: int) -> range:
    """The lines of the innermost statement that a line belongs to; of a compound one, its head."""
    found = range(line, line + 1)
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.stmt | ast.excepthandler):
            continue
        inner = next((first for first in getattr(node, "body", []) if isinstance(first, ast.stmt)), None)
        begin = min(part.lineno for part in [node, *getattr(node, "decorator_list", [])])
        end = max(begin, inner.lineno - 1) if inner else node.end_lineno or begin
        if begin <= line <= end:
            found = range(begin, end + 1)  # a walk comes to the inner ones last
    return found


def _imported(project: Project, of: Mutant, code: CodeType, plan: Plan, say: Say) -> None:
    """Import the package anew, with the mutated module in it, and run the tests."""
    sys.meta_path.insert(0, Mutated(project.module(of.path), project.root / of.path, code))
    watch = Watch(plan, say)
    files = list(dict.fromkeys(test.split("::")[0] for test in plan.tests))
    run_pytest(project, [project.tests] if plan.everywhere else files, watch)
    watch.last_word(KILLED, IMPORT)
