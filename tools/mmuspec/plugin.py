"""The pytest plugin: ties tests to statements, proves the tests, writes `build/results.json`.

It sleeps until a test carries the mark ``spec``. What it adds to a run:

- collection fails for a test that names a statement that does not exist;
- ``--prove`` runs each test once more for every violation of its statements; a violation that none of them
  notices with an assertion is an error;
- violations of statements that do not exist, and verdicts without the evidence they need, are errors;
- the results file, the same with and without xdist, and a table at the end.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from mmuspec.run import MARK, Run, marks_of
from mmuspec.violations import DECLARED, Violation

KEY = pytest.StashKey["Run"]()
PROVE = "prove"
OF_THE_REAL_THING = "live"
"""The tier of tests that no wrong model can make fail: what they look at was recorded on a real kernel."""
MARKED, PROVED, SEEN = "mmuspec", "mmuspec-proved", "mmuspec-seen"


class Hooks:
    """What a conformance suite tells the plugin."""

    @pytest.hookspec(firstresult=True)
    def pytest_mmuspec_violate(self, violation: Violation) -> AbstractContextManager[None] | None:
        """A context in which the model is broken by `violation`."""


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(Hooks)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("mmuspec", "statements of mmu.rst")
    group.addoption("--prove", action="store_true", help="show that a wrong model makes the tests fail")
    group.addoption(
        "--prove-seconds",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="how long a test may take on a wrong model (default: %(default)s)",
    )
    group.addoption("--spec-dir", metavar="DIR", help="the spec folder (default: spec/ of the repository)")
    group.addoption(
        "--spec-results", metavar="FILE", help="where to write the results (default: build/results.json)"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "spec(id, *, refutes=False, tier='model'): evidence for (or against) a statement of mmu.rst",
    )
    config.stash[KEY] = Run.of(config)


@pytest.fixture
def seen(request: pytest.FixtureRequest) -> Any:
    """Call it as ``seen(tier, kernel, where)`` to say where else than in the model a statement was seen."""

    def note(tier: str, kernel: str, where: str) -> None:
        request.node.user_properties.append((SEEN, [tier, kernel, where]))

    return note


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A misspelt id fails the collection of the file (or class) that it stands in."""
    report = yield
    items = [node for node in report.result or [] if isinstance(node, pytest.Item)]
    if items and any(item.get_closest_marker(MARK) for item in items):
        complaints = collector.config.stash[KEY].complaints(items)
        if complaints:
            report.outcome = "failed"
            report.longrepr = "\n".join(complaints)
            report.result = []
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Before anything is deselected: what there is to be run. Each test carries its marks in its reports."""
    run = config.stash[KEY]
    for item in items:
        marks = marks_of(item)
        if marks:
            run.collected(item.nodeid, marks)
            item.user_properties.append((MARKED, [list(mark) for mark in marks]))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Under ``--prove``: the test as it is, then once more on each wrong model."""
    violations = DECLARED.of({mark.id for mark in marks_of(item) if mark.tier != OF_THE_REAL_THING})
    if not violations or not item.config.getoption(PROVE):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    runtestprotocol(item, nextitem=nextitem)
    verdicts = {violation.name: _run_broken(item, nextitem, violation) for violation in violations}
    report: Any = pytest.TestReport(
        item.nodeid, item.location, {}, "passed", None, "call", user_properties=[(PROVED, verdicts)]
    )
    report.when = PROVE
    item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _run_broken(item: pytest.Item, nextitem: pytest.Item | None, violation: Violation) -> str:
    """``killed`` if the test failed with an assertion, ``survived``, or what else went wrong."""
    kept = list(item.user_properties)
    outcomes: list[str] = []

    class _Watch:
        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(
            self, call: pytest.CallInfo[None]
        ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
            if call.excinfo is not None and not call.excinfo.errisinstance(pytest.skip.Exception):
                killed = call.when == "call" and _is_the_tests_own(call.excinfo, item)
                outcomes.append("killed" if killed else f"crashed: {call.excinfo.exconly()}")
            return (yield)

    broken = item.config.hook.pytest_mmuspec_violate(violation=violation)
    if broken is None:
        return "crashed: no conftest.py implements pytest_mmuspec_violate"
    watch = _Watch()
    item.config.pluginmanager.register(watch)
    try:
        with _at_most(item.config.getoption("prove_seconds")), broken:
            runtestprotocol(item, log=False, nextitem=nextitem)
    except Exception as error:
        return f"crashed: {type(error).__name__}: {error}"
    finally:
        item.config.pluginmanager.unregister(watch)
        item.user_properties[:] = kept
    return outcomes[0] if outcomes else "survived"


def _is_the_tests_own(failure: pytest.ExceptionInfo[BaseException], item: pytest.Item) -> bool:
    """Whether the suite says that something is wrong: an assertion inside of what is tested shows no test's worth.

    It may say so to somebody else (an explorer of interleavings, say), whose own error then has it as its cause.
    """
    if failure.errisinstance(pytest.fail.Exception):
        return True
    suite = item.config.rootpath / Path(item.nodeid.split("::")[0]).parts[0]
    error: BaseException | None = failure.value
    while error is not None:
        raised_in = Path(pytest.ExceptionInfo.from_exception(error).traceback[-1].path)
        if isinstance(error, AssertionError) and raised_in.is_relative_to(suite):
            return True
        error = error.__cause__
    return False


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """A wrong model may go round for ever; after this time it crashes, again and again until it is out."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"no end after {seconds:g} s")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """The proof of a test is no test: no dot, no count."""
    return ("", "", "") if str(report.when) == PROVE else None


class _Collector:
    """Gathers the reports of all workers; lives where the terminal is."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        named: list[tuple[str, Any]] = list(report.user_properties)
        properties = dict(named)
        if PROVED in properties:
            self.run.proved(report.nodeid, properties[PROVED])
        elif MARKED in properties:
            expected = {"passed": "xpassed", "skipped": "xfailed"} if hasattr(report, "wasxfail") else {}
            outcome = expected.get(report.outcome, report.outcome)
            self.run.ran(report.nodeid, report.when, outcome)
            self.run.saw(report.nodeid, [value for name, value in named if name == SEEN])

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.run.add(node.workeroutput.get(MARKED, {}) if hasattr(node, "workeroutput") else {})

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.config.option.collectonly:  # what an earlier run showed still stands
            return
        self.run.finish()
        if self.run.errors and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in self.run.summary():
            terminalreporter.write_line(line)
        for line in self.run.errors:
            terminalreporter.write_line(line, red=True)


def pytest_sessionstart(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):
        session.config.pluginmanager.register(_Collector(session.config.stash[KEY]))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker hands what it collected to the process that has the terminal."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[MARKED] = session.config.stash[KEY].as_data()
