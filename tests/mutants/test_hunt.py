"""The whole of it, on a package whose mutants are known to be killed or to survive."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mutants.watch import UNNOTICED, UNSEEN

PYPROJECT = "[tool.pytest.ini_options]\nfilterwarnings = ['error']\n"

PACKAGE = """\
LIMIT = 3


def over(x):
    return x > LIMIT


def unseen(x):
    return x + 1


def lenient(x):
    return x - 5


def count_down(x):
    while x > 0:
        x -= 1
    return x
"""

CHECKS = """\
import pytest
from tiny.it import LIMIT, count_down, lenient, over


@pytest.mark.parametrize("x", range(8))
def test_over(x):
    assert over(x) == (x >= 4)


def test_lenient():
    lenient(9)


def test_count_down():
    assert count_down(20) == 0
"""


CONFTEST = """\
from pathlib import Path


def pytest_sessionfinish():
    Path("report").touch()
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "checks").mkdir()
    (tmp_path / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    (tmp_path / "tiny" / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "tiny" / "it.py").write_text(PACKAGE, encoding="utf-8")
    (tmp_path / "checks" / "test_it.py").write_text(CHECKS, encoding="utf-8")
    (tmp_path / "checks" / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    return tmp_path


def hunt(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    where = ("--root", str(root), "--package", "tiny", "--tests", "checks", "--jobs", "1")
    command = [sys.executable, "-m", "mutants", *where, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def judged(root: Path) -> dict[str, dict[str, str]]:
    _, *lines = (root / "build" / "mutants.jsonl").read_text(encoding="utf-8").splitlines()
    return dict(json.loads(line) for line in lines)


def test_killed_and_surviving_mutants_are_told_apart(tiny: Path) -> None:
    done = hunt(tiny, "--sample", "100")
    assert done.returncode == 0, done.stderr
    results = judged(tiny)
    how = {name: result["how"] for name, result in results.items()}

    limit = how.get("tiny/it.py:NumberReplacer:0") or how["tiny/it.py:NumberReplacer:1"]
    assert limit == "an assertion"
    assert how["tiny/it.py:DeleteStatement:0"] == "no end"
    for line, expected in (("return x + 1", UNSEEN), ("return x - 5", UNNOTICED)):
        number = PACKAGE.splitlines().index(f"    {line}") + 1
        assert re.search(
            rf"^tiny/it.py:{number}: \w+: {expected}\n    -    {re.escape(line)}\n    \+    ",
            done.stdout,
            re.M,
        )
    killed = sum(result["outcome"] == "killed" for result in results.values())
    assert f"all: {killed / len(results):.1%} ({killed} of {len(results)};" in done.stdout
    assert (tiny / "tiny" / "it.py").read_text(encoding="utf-8") == PACKAGE
    assert not list(tiny.rglob("tiny/__pycache__"))
    assert not (tiny / "report").exists(), "tests on a wrong model are no report"


def test_what_was_judged_is_not_judged_again(tiny: Path) -> None:
    hunt(tiny, "--sample", "2")
    file = tiny / "build" / "mutants.jsonl"
    first = file.read_text(encoding="utf-8")
    done = hunt(tiny, "--sample", "4")
    assert done.returncode == 0, done.stderr
    assert file.read_text(encoding="utf-8").startswith(first)
    assert len(judged(tiny)) == 4


def test_tests_that_fail_anyway_stop_the_hunt(tiny: Path) -> None:
    (tiny / "checks" / "test_it.py").write_text(CHECKS.replace("x >= 4", "x >= 5"), encoding="utf-8")
    done = hunt(tiny)
    assert done.returncode == 2
    assert "without any mutation checks/test_it.py::test_over[4] fails" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_path_that_is_nothing_is_refused(tiny: Path) -> None:
    done = hunt(tiny, "tiny/other.py")
    assert done.returncode == 2
    assert done.stderr == "error: no file of tiny begins with tiny/other.py\n"


def test_the_hunt_runs_on_a_cluster(tiny: Path) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50
    ) as local:
        done = hunt(tiny, "--sample", "2", "--scheduler", local.scheduler_address)
    assert done.returncode == 0, done.stderr
    assert len(judged(tiny)) == 2


def test_ctrl_c_stops_at_once_and_loses_nothing(tiny: Path) -> None:
    (tiny / "checks" / "test_it.py").write_text(f"import time\n{CHECKS}    time.sleep(4)\n", encoding="utf-8")
    where = ("--root", str(tiny), "--package", "tiny", "--tests", "checks", "--jobs", "1")
    command = [sys.executable, "-m", "mutants", *where, "--sample", "100"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as running:
        file = tiny / "build" / "mutants.jsonl"
        while running.poll() is None and not file.exists():
            time.sleep(0.2)
        os.killpg(running.pid, signal.SIGINT)
        assert running.stderr is not None
        told = running.stderr.read()
    assert running.returncode == 130
    assert "Traceback" not in told
    assert "goes on from there" in told
    assert 1 <= len(judged(tiny)) < 12
    assert not list((tiny / "build").glob("*.new"))
