"""Which test executes which line, and how long it takes, when nothing is mutated."""

from __future__ import annotations

import functools
import gc
import json
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import coverage
import pytest

from mutants.child import Say, in_child, run_pytest, spoken
from mutants.project import MutantsError, Project

_LIMIT: Final = 1800.0
"""Seconds of processor time for all tests together, traced."""


@dataclass(frozen=True)
class Baseline:
    """What is known of the tests.

    Parameters
    ----------
    seconds :
        Of processor time, that each test takes, traced.
    lines :
        For each file and line the tests that execute it, as bits in the order of `seconds`. Bit 0 is no test but
        the import of the package and its tests.

    """

    seconds: dict[str, float]
    lines: dict[str, dict[int, int]]

    def at(self, path: str, lines: range) -> tuple[bool, set[str]]:
        """Are these lines executed by an import, and by which tests?"""
        bits = 0
        for line in lines:
            bits |= self.lines.get(path, {}).get(line, 0)
        tests = {test for number, test in enumerate(self.seconds, 1) if bits >> number & 1}
        return bool(bits & 1), tests

    def of(self, path: str) -> set[str]:
        """The tests that execute something of a file."""
        return self.at(path, range(max(self.lines.get(path, {}), default=0) + 1))[1]


def baseline(project: Project, folder: Path) -> Baseline:
    """Run all tests, or read in `folder` what came of it when the files were the same.

    Raises
    ------
    MutantsError
        The tests do not pass.

    """
    file = folder / f"mutants-baseline-{project.digest[:16]}.json"
    if not file.exists():
        found = spoken(
            in_child(project, _LIMIT, functools.partial(_trace, project, folder)), "the traced run"
        )
        if found["failed"]:
            raise MutantsError(f"without any mutation {found['failed']} fails; mend that first")
        if not found["seconds"]:
            raise MutantsError(f"there are no tests in {project.tests}")
        for old in folder.glob("mutants-baseline-*.json"):
            old.unlink()
        (folder / f"{file.name}.new").rename(file)
    data = json.loads(file.read_text(encoding="utf-8"))
    lines = {
        path: {int(line): int(bits, 16) for line, bits in of.items()} for path, of in data["lines"].items()
    }
    return Baseline(data["seconds"], lines)


class _Tracer:
    """A plugin that tells the tracer which test is running."""

    def __init__(self, package: str, tracer: coverage.Coverage, finish: Callable[[_Tracer], None]) -> None:
        self.package = package
        self.tracer = tracer
        self.finish = finish
        self.seconds: dict[str, float] = {}
        self.failed = ""
        self.caches: list[Any] = []

    def pytest_collection_finish(self) -> None:
        self.caches = caches(self.package)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        for cache in self.caches:
            cache.cache_clear()
        self.tracer.switch_context(item.nodeid)
        begin = time.process_time()
        result = yield
        self.seconds[item.nodeid] = time.process_time() - begin
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Before other plugins write down what came of it: these tests are no report."""
        self.finish(self)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed = self.failed or (report.nodeid if report.failed else "")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.failed = self.failed or (report.nodeid if report.failed else "")


def caches(package: str) -> list[Any]:
    """What functions of the package have computed and kept.

    It is cleared where a test is to be seen to compute it.
    """
    return [
        thing
        for thing in gc.get_objects()
        if isinstance(thing, functools._lru_cache_wrapper)
        and str(getattr(thing, "__module__", "")).split(".")[0] == package
    ]


def _trace(project: Project, folder: Path, say: Say) -> None:
    tracer = coverage.Coverage(
        data_file=None, config_file=False, include=[f"{project.root / project.package}/*"], messages=False
    )
    plugin = _Tracer(project.package, tracer, lambda traced: _keep(project, folder, traced, say))
    tracer.start()
    run_pytest(project, [project.tests], plugin)


def _keep(project: Project, folder: Path, plugin: _Tracer, say: Say) -> None:
    tracer = plugin.tracer
    tracer.stop()
    data = tracer.get_data()
    number = {test: bit for bit, test in enumerate(["", *plugin.seconds])}
    lines: dict[str, dict[int, str]] = {}
    for measured in sorted(data.measured_files()):
        path = str(Path(measured).relative_to(project.root))
        lines[path] = {
            line: f"{sum(1 << number[test] for test in tests):x}"
            for line, tests in sorted(data.contexts_by_lineno(measured).items())
        }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"mutants-baseline-{project.digest[:16]}.json.new"
    file.write_text(json.dumps({"seconds": plugin.seconds, "lines": lines}), encoding="utf-8")
    say({"failed": plugin.failed, "seconds": sum(plugin.seconds.values())})
