"""Pytest on a mutant: the tests in order, up to the first that fails."""

from __future__ import annotations

import signal
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

import pytest

from mutants.child import Say

KILLED, SURVIVED = "killed", "survived"
ASSERTION, ERROR, IMPORT, TIME = "an assertion", "an error", "an import that fails", "no end"
"""How a mutant is killed."""
UNSEEN, UNNOTICED, BUDGET = "no test executes it", "no test notices", "none did within the budget"
"""Why a mutant survives."""

_SLOWER: Final = 20
_AT_LEAST: Final = 3.0
"""A test on a mutant does not end if it takes so many times as long, and so many seconds, of processor time."""


@dataclass(frozen=True)
class Plan:
    """What is run on a mutant.

    Parameters
    ----------
    tests :
        In order, with the seconds of processor time that each takes on the right model.
    everywhere :
        These are all that there are; so a test that is not among them is there because of the mutant.
    budget :
        Seconds of processor time.

    """

    tests: dict[str, float]
    everywhere: bool
    budget: float


class Watch:
    """A plugin that runs the tests of a plan and speaks at the first that fails."""

    def __init__(self, plan: Plan, say: Say) -> None:
        self._plan = plan
        self._order = {test: number for number, test in enumerate(plan.tests)}
        self._say = say
        self._begin = time.process_time()
        self._test = ""
        signal.signal(signal.SIGPROF, lambda *_: self.last_word(KILLED, TIME))

    def last_word(self, outcome: str, how: str) -> None:
        """Say what came of it."""
        seconds = round(time.process_time() - self._begin, 2)
        self._say({"outcome": outcome, "how": how, "test": self._test, "seconds": seconds})

    def chosen(self, items: list[pytest.Item]) -> list[pytest.Item]:
        """The tests of the plan in order; first of all those that are there on the mutant only."""
        of_plan = [item for item in items if self._plan.everywhere or item.nodeid in self._order]
        return sorted(of_plan, key=lambda item: self._order.get(item.nodeid, -1))

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Where tests are collected on the mutant."""
        items[:] = self.chosen(items)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        if time.process_time() - self._begin > self._plan.budget:
            self.last_word(SURVIVED, BUDGET)
        self._test = item.nodeid
        usual = self._plan.tests.get(item.nodeid, 0.0)
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
