"""One mutant: is there a test that fails on it?"""

from __future__ import annotations

import ast
import functools
import signal
import sys
import time
import warnings
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any, Final

import pytest

from mutants.baseline import Baseline, baseline
from mutants.child import Mutated, Say, in_child, run_pytest
from mutants.mutations import Mutant, mutant, mutated
from mutants.project import MutantsError, Project

KILLED, SURVIVED = "killed", "survived"
ASSERTION, ERROR, IMPORT, TIME = "an assertion", "an error", "an import that fails", "no end"
"""How a mutant is killed."""
UNSEEN, UNNOTICED, BUDGET = "no test executes it", "no test notices", "none did within the budget"
"""Why a mutant survives."""

_SLOWER: Final = 20
_AT_LEAST: Final = 3.0
"""A test on a mutant does not end if it takes so many times as long, and so many seconds, of processor time."""
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
        work = functools.partial(_run, self, of, code, tests, everywhere)
        word = in_child(self.project, self.budget + _START, work)
        return word or {"outcome": KILLED, "how": TIME, "test": "", "seconds": self.budget + _START}


@functools.lru_cache(maxsize=1)
def _baseline(hunt: Hunt) -> Baseline:
    return baseline(hunt.project, hunt.folder)


def compiled(project: Project, of: Mutant) -> CodeType | None:
    """The mutated module's code; None if it is no Python, or the same as before."""
    source = mutated(project, of)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(source)
            same = ast.dump(tree) == ast.dump(ast.parse(project.read(of.path)))
            return None if same else compile(tree, str(project.root / of.path), "exec")
        except (SyntaxError, ValueError):
            return None


def tests_for(project: Project, known: Baseline, of: Mutant) -> tuple[list[str], bool]:
    """The tests that could notice a mutant, the quickest first; and are these all that there are?

    What an import executes (tables, constants, classes) can be noticed by any test; those that execute something
    of the file come first.
    """
    imported, tests = known.at(of.path, _lines(project.read(of.path), of.start[0]))
    if not imported:
        return sorted(tests, key=known.seconds.__getitem__), False
    near = known.of(of.path)
    return sorted(known.seconds, key=lambda test: (test not in near, known.seconds[test])), True


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


def _run(hunt: Hunt, of: Mutant, code: CodeType, tests: list[str], everywhere: bool, say: Say) -> None:
    begin = time.process_time()
    module = hunt.project.module(of.path)
    sys.meta_path.insert(0, Mutated(module, hunt.project.root / of.path, code))
    watch = _Watch(hunt, tests, everywhere, say, begin)
    signal.signal(signal.SIGPROF, lambda *_: watch.last_word(KILLED, TIME))
    files = list(dict.fromkeys(test.split("::")[0] for test in tests))
    run_pytest(hunt.project, [hunt.project.tests] if everywhere else files, watch)
    watch.last_word(KILLED, IMPORT)


class _Watch:
    """A plugin that runs the tests in order and speaks at the first that fails."""

    def __init__(self, hunt: Hunt, tests: list[str], everywhere: bool, say: Say, begin: float) -> None:
        self._hunt = hunt
        self._order = {test: number for number, test in enumerate(tests)}
        self._everywhere = everywhere
        self._say = say
        self._begin = begin
        self._test = ""

    def last_word(self, outcome: str, how: str) -> None:
        """Say what came of it."""
        seconds = round(time.process_time() - self._begin, 2)
        self._say({"outcome": outcome, "how": how, "test": self._test, "seconds": seconds})

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """In order; first of all those that are there on the mutant only."""
        chosen = [item for item in items if self._everywhere or item.nodeid in self._order]
        items[:] = sorted(chosen, key=lambda item: self._order.get(item.nodeid, -1))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        if time.process_time() - self._begin > self._hunt.budget:
            self.last_word(SURVIVED, BUDGET)
        self._test = item.nodeid
        usual = _baseline(self._hunt).seconds.get(item.nodeid, 0.0)
        signal.setitimer(signal.ITIMER_PROF, max(_AT_LEAST, _SLOWER * usual))
        result = yield
        signal.setitimer(signal.ITIMER_PROF, 0)
        self._test = ""
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Before other plugins write down what came of a wrong model."""
        unnoticed = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        self.last_word(*((SURVIVED, UNNOTICED) if unnoticed else (KILLED, IMPORT)))

    def pytest_runtest_makereport(self, call: pytest.CallInfo[None]) -> None:
        excinfo = call.excinfo
        if excinfo is None or excinfo.errisinstance(pytest.skip.Exception):
            return
        assertion = excinfo.errisinstance((AssertionError, pytest.fail.Exception))
        self.last_word(KILLED, ASSERTION if assertion else ERROR)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.last_word(KILLED, IMPORT)
