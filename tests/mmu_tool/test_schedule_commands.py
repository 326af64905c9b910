"""`mmu-model explore` and `replay`: every order of somebody's actors, and what is wrong with them, in words."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mmu_tool.cli import main

RACES = """
from dataclasses import dataclass, field
from mmu_model.kvm.locks import SpinLock
from mmu_model.schedule import Race

@dataclass
class Counter:
    value: int = 0
    lock: SpinLock = field(default_factory=lambda: SpinLock("counter lock"))

def adds(counter):
    yield "reads"
    value = counter.value
    yield "writes"
    counter.value = value + 1

def adds_under_the_lock(counter):
    yield from counter.lock.wait()
    with counter.lock:
        yield from adds(counter)

def race(how, other=None):
    counter = Counter()
    def at_end():
        assert counter.value == 2, f"{counter.value} of 2"
    return Race({"one": how(counter), "two": (other or how)(counter)}, at_end=at_end)

def lost(kernel):
    return race(adds)

def kept(kernel):
    return race(adds_under_the_lock)

def releases_for_another(counter):
    yield "begins"
    counter.lock.release()

def not_its_own(kernel):
    return race(adds_under_the_lock, releases_for_another)

def keeps_it(counter):
    yield from counter.lock.wait()
    counter.lock.acquire()

def kept_for_ever(kernel):
    return race(keeps_it)

def adds_at_once(counter):
    counter.value += 1
    return
    yield

def at_once(kernel):
    return Race({"one": adds(Counter()), "two": adds_at_once(Counter())})

def no_generator(kernel):
    return Race({"one": adds(Counter()), "two": None})

def loops(counter):
    yield "begins"
    while True:
        counter.value = 0

def endless(kernel):
    return race(adds, loops)

def no_race(kernel):
    return 7

def takes_nothing():
    return 7

NOT_CALLABLE = 7
"""


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with somebody's races, which is the working directory."""
    (tmp_path / "somebodys_races.py").write_text(RACES)
    (tmp_path / "broken_races.py").write_text("this is no Python")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("somebodys_races", None)


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(main, arguments)
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result


def explore(race: str, *options: str) -> Result:
    return run("explore", f"somebodys_races:{race}", *options)


def test_what_was_explored_is_said() -> None:
    result = explore("kept")

    assert result.exit_code == 0
    assert "kept on 6.12: 21 states, 10 schedules of up to 8 steps; nothing goes wrong" in result.stdout


def test_a_schedule_that_fails_is_printed_kept_and_replayed(there: Path) -> None:
    result = explore("lost", "-o", "lost.txt")

    assert result.exit_code == 1
    assert "1 of 2" in result.stdout
    again = run("replay", "somebodys_races:lost", "lost.txt")
    assert (again.exit_code, again.stdout) == (1, result.stdout)
    assert sorted(path.name for path in there.glob("*.txt*")) == ["lost.txt"]


def test_a_schedule_that_does_not_fail_is_printed(there: Path) -> None:
    (there / "order.txt").write_text("schedule 1\n" + "one: \n" * 3 + "two: \n" * 3)

    result = run("replay", "somebodys_races:lost", "order.txt")

    assert result.exit_code == 0
    assert result.stdout.splitlines()[-2:] == ["   6  two  ends", "nothing goes wrong"]


def test_preemptions_are_bounded() -> None:
    assert explore("lost", "--preemptions", "0").exit_code == 0
    assert explore("lost", "--preemptions", "1").exit_code == 1


@pytest.mark.parametrize(
    ("race", "message"),
    [
        ("at_once", "error: actor two never yields: nobody can run in between"),
        ("no_generator", "error: actor two is no generator: make it a function that yields"),
        ("no_race", "makes a int and no Race"),
        ("takes_nothing", "makes no race: TypeError: takes_nothing() takes 0 positional arguments"),
        ("NOT_CALLABLE", "somebodys_races has no race NOT_CALLABLE"),
        ("none", "somebodys_races has no race none"),
    ],
)
def test_actors_that_cannot_be_run_are_refused(race: str, message: str) -> None:
    result = explore(race)

    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_an_actor_that_loops_without_yielding_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmu_tool import schedule_commands

    monkeypatch.setattr(schedule_commands, "STEP_SECONDS", 0.2)
    result = explore("endless")

    assert result.exit_code == 2
    assert result.stderr == "error: actor two has been running for 0.2 s and does not yield\n"


@pytest.mark.parametrize(
    ("race", "message"),
    [
        (
            "not_its_own",
            "LockNotHeld: two releases counter lock and does not hold it: counter lock, held by nobody",
        ),
        ("kept_for_ever", "LeftWithLocks: one leaves the kernel and holds counter lock"),
    ],
)
def test_locks_that_are_not_ones_own_to_release_or_to_keep(race: str, message: str) -> None:
    result = explore(race)

    assert result.exit_code == 1
    assert message in result.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:race", "nowhere cannot be imported: ModuleNotFoundError"),
        ("broken_races:race", "broken_races cannot be imported: SyntaxError"),
        ("somebodys_races", "names no race: write MODULE:RACE"),
        (":lost", "names no race: write MODULE:RACE"),
    ],
)
def test_names_that_name_no_race_are_refused(name: str, message: str) -> None:
    result = run("explore", name)

    assert result.exit_code == 2
    assert message in result.stderr


def test_more_states_than_the_bound_are_refused() -> None:
    result = explore("kept", "--states", "5")

    assert result.exit_code == 2
    assert result.stderr == "error: more than 5 states: raise the bound, or bound the preemptions\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "bad.txt:1: error: a schedule begins with the line 'schedule 1'"),
        ("schedule 1\none\n", "bad.txt:2: error: 'one' is no step; write ACTOR: where it stands"),
        (
            "schedule 1\none: \nthree: \n",
            "bad.txt:3: error: step 2: there is no actor 'three'; there are one, two",
        ),
        (
            "schedule 1\none: \none: \ntwo: \ntwo: \n",
            "bad.txt:5: error: step 4: two cannot run: waits for counter lock",
        ),
        ("schedule 1\none: \n", "bad.txt:3: error: step 2 is missing: one and two could go on"),
        (None, "bad.txt: error: cannot be read as a schedule"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(there: Path, text: str | None, message: str) -> None:
    if text is not None:
        (there / "bad.txt").write_text(text)

    result = run("replay", "somebodys_races:kept", "bad.txt")

    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_where_nothing_can_be_written_is_said() -> None:
    result = explore("lost", "-o", "nowhere/lost.txt")

    assert result.exit_code == 2
    assert result.stderr.startswith("nowhere/lost.txt: error: ")
