"""The pytest plugin: ties tests to statements, proves the tests, writes `build/results.json`.

It sleeps until a test carries the mark ``spec``. What it adds to a run:

- collection fails for a test that names a statement that does not exist;
- ``--prove`` runs each test once more for every violation of its statements; a violation that none of them
  notices with an assertion is an error;
- violations of statements that do not exist, and verdicts without the evidence they need, are errors;
- the results file, the same with and without xdist, and a table at the end;
- under ``--junitxml`` each test has its statements as properties, ``mmuspec.statement`` or ``mmuspec.refutes``.

What a test shows travels in the attribute ``mmuspec`` of its reports, as plain data.
"""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from mmuspec.attachments import Attachment
from mmuspec.run import MARK, Proved, Run, marks_of
from mmuspec.violations import DECLARED, Violation

KEY = pytest.StashKey["Run"]()
SHOWN = pytest.StashKey[dict[str, list[Any]]]()
PROVE = "prove"
OF_THE_REAL_THING = "live"
"""The tier of tests that no wrong model can make fail: what they look at was recorded on a real kernel."""
CARRIED = "mmuspec"
"""The attribute of a report, and the key of what a worker hands over."""
PROPERTIES = {False: "mmuspec.statement", True: "mmuspec.refutes"}
ASSERTION_LENGTH = 300
PYTESTS_ADVICE = " Use -v to get more diff"
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""Where an object happens to be in this process: in one run this, in the next that."""


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
        _shown(request.node)["seen"].append([tier, kernel, where])

    return note


@pytest.fixture
def attach(request: pytest.FixtureRequest) -> Callable[[str, str, bytes, str], None]:
    """Call it as ``attach(name, media_type, content, text)`` to have the report show a picture.

    ``text`` says the same in words. Raises `mmuspec.attachments.Unfit`, a ValueError, for what cannot be shown.
    """

    def note(name: str, media_type: str, content: bytes, text: str) -> None:
        attachment = Attachment(name, media_type, text, content)
        _shown(request.node)["attached"].append(attachment.as_json())

    return note


def _shown(item: pytest.Item) -> dict[str, list[Any]]:
    """What a test has shown in the run that is under way."""
    return item.stash.setdefault(SHOWN, {"seen": [], "attached": []})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Each report of a test that is evidence says so, and the one of its call all that it showed."""
    report = yield
    if marks_of(item):
        carried = {}
        if call.when == "call":
            carried = _shown(item)
            del item.stash[
                SHOWN
            ]  # the next run of the test, on a wrong model, has nothing to do with this one
        setattr(report, CARRIED, carried)
    return report


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
    """Before anything is deselected: what there is to be run."""
    run = config.stash[KEY]
    for item in items:
        marks = marks_of(item)
        if marks:
            run.collected(item.nodeid, marks)
            item.user_properties += [(PROPERTIES[mark.refutes], mark.id) for mark in marks]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Under ``--prove``: the test as it is, then once more on each wrong model. Its own reports tell of both."""
    violations = DECLARED.of({mark.id for mark in marks_of(item) if mark.tier != OF_THE_REAL_THING})
    if not violations or not item.config.getoption(PROVE):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    verdicts = {violation.name: _run_broken(item, nextitem, violation) for violation in violations}
    getattr(reports[-1], CARRIED)["proved"] = verdicts
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _run_broken(item: pytest.Item, nextitem: pytest.Item | None, violation: Violation) -> Proved:
    """Where and why, if the test failed with an assertion, else ``survived``, or what else went wrong."""
    kept = list(item.user_properties)
    outcomes: list[Proved] = []

    class _Watch:
        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(
            self, call: pytest.CallInfo[None]
        ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
            if call.excinfo is not None and not call.excinfo.errisinstance(pytest.skip.Exception):
                killed = call.when == "call" and _is_the_tests_own(call.excinfo, item)
                outcomes.append(
                    _death(item, call.excinfo) if killed else f"crashed: {call.excinfo.exconly()}"
                )
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


def _death(item: pytest.Item, excinfo: pytest.ExceptionInfo[BaseException]) -> list[str]:
    """Where in the file of the test it ended, and what the assertion said."""
    entries = [entry for entry in excinfo.traceback if Path(entry.path) == item.path]
    where = f"{item.location[0]}:{entries[-1].lineno + 1}" if entries else ""
    said = ADDRESS.sub("", " ".join(excinfo.exconly().split()).removeprefix("AssertionError: "))
    said = said.removesuffix(PYTESTS_ADVICE)
    return [where, said if len(said) <= ASSERTION_LENGTH else said[: ASSERTION_LENGTH - 1] + "…"]


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


class _Collector:
    """Gathers the reports of all workers; lives where the terminal is."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        carried: dict[str, Any] | None = getattr(report, CARRIED, None)
        if carried is None:
            return
        expected = {"passed": "xpassed", "skipped": "xfailed"} if hasattr(report, "wasxfail") else {}
        self.run.ran(report.nodeid, report.when, expected.get(report.outcome, report.outcome))
        self.run.saw(report.nodeid, carried.get("seen", []))
        self.run.attached(report.nodeid, carried.get("attached", []))
        self.run.proved(report.nodeid, carried.get("proved", {}))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.run.add(node.workeroutput.get(CARRIED, {}) if hasattr(node, "workeroutput") else {})

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
        output[CARRIED] = session.config.stash[KEY].as_data()
