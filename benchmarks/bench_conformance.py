"""The conformance suite: how long all of it takes, and which tests take longest."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.measure import Measurement, benchmark
from benchmarks.process import cost

PYTEST = str(Path(sys.executable).with_name("pytest"))
SLOWEST = 10


@benchmark
def conformance_suite() -> Iterator[Measurement]:
    """On all cores; proving shows for each statement that a wrong model makes its tests fail."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [PYTEST, "conformance", "-q", "-n", "auto", "--spec-results", f"{scratch}/results.json"]
        report = Path(scratch) / "report.xml"
        plain = cost([*command, f"--junitxml={report}"]).seconds
        proving = cost([*command, "--prove"]).seconds
        slowest = _durations(report)[:SLOWEST]
    yield Measurement("pytest conformance", plain, "s", 60)
    yield Measurement("pytest conformance --prove", proving, "s", 240)
    for place, (took, test) in enumerate(slowest, 1):
        yield Measurement(f"slow test {place}: {test}", took, "s")


def _durations(report: Path) -> list[tuple[float, str]]:
    """Seconds and name of each test, the longest first."""
    cases = ElementTree.parse(report).iter("testcase")
    tests = (
        (float(case.attrib["time"]), f"{case.attrib['classname']}::{case.attrib['name']}") for case in cases
    )
    return sorted(tests, reverse=True)
