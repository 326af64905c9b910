"""One order of steps: what is told of it, what ends it, and what the actors leave behind."""

from collections.abc import Callable

import pytest

from conformance.schedule.actors import (
    Counter,
    adders,
    adds,
    adds_under_the_lock,
    takers_in_two_orders,
    walks,
)
from mmu_model.kvm.task import Spin, Steps, current
from mmu_model.schedule import (
    NeverYields,
    Race,
    ScheduleFailed,
    Step,
    WrongSchedule,
    blocked_steps,
    explore,
    replay,
)


class Never:
    """What an actor waits for in vain."""

    def ready(self) -> bool:
        return False


def test_a_replay_tells_where_each_actor_stands() -> None:
    """A word where it yields one, what it waits for, and that it ends."""
    steps = replay(adders(adds_under_the_lock), [f"adder {n}" for n in "01000111"])

    assert [step.actor[-1] for step in steps] == list("01000111")
    assert [step.stands for step in steps] == [
        *["waits for counter lock, held by nobody"] * 2,
        *["reads", "writes", "ends"] * 2,
    ]


def test_a_failure_says_what_and_after_which_steps() -> None:
    """A line a step, numbered from 1, in columns; the actor that failed stands nowhere."""

    def fails() -> Steps[None]:
        yield "about to"
        raise ValueError("it broke")

    with pytest.raises(ScheduleFailed) as failed:
        replay(lambda: Race({"a": walks(2), "long": fails()}), ["long", "a", "long"])

    what, after, *lines = str(failed.value).splitlines()
    assert (what, after) == ("ValueError: it broke", "after this schedule:")
    assert [line.split() for line in lines] == [
        ["1", "long", "about", "to"],
        ["2", "a", "on", "the", "way"],
        ["3", "long"],
    ]
    assert lines[0].index("about") == lines[1].index("on the way")
    assert failed.value.schedule == ("long", "a", "long")
    assert failed.value.steps[-1] == Step("long", "")
    assert isinstance(failed.value.__cause__, ValueError)


def test_a_failure_at_the_end_says_so() -> None:
    with pytest.raises(ScheduleFailed, match=r"^at the end: AssertionError: 1 of 2\nafter") as failed:
        replay(adders(adds), ["adder 0", "adder 1"] * 3)
    assert isinstance(failed.value.__cause__, AssertionError)
    assert len(failed.value.steps) == 6


def test_who_is_stuck_at_the_end_of_a_replay_is_told() -> None:
    with pytest.raises(ScheduleFailed) as found:
        explore(takers_in_two_orders)
    with pytest.raises(
        ScheduleFailed, match=r"nobody can go on: one waits for b .*; two waits for a "
    ) as again:
        replay(takers_in_two_orders, found.value.schedule)
    assert again.value.steps == found.value.steps
    with pytest.raises(ScheduleFailed, match="nobody can go on"):
        blocked_steps(takers_in_two_orders())


def test_an_actor_runs_as_a_task_of_its_name_and_leaves_without_locks() -> None:
    """And nobody is that task afterwards."""
    seen: list[str] = []

    def keeps(counter: Counter) -> Steps[None]:
        seen.append(str(current()))
        yield "begins"
        counter.lock.acquire()

    before = current()
    with pytest.raises(
        ScheduleFailed, match="LeftWithLocks: greedy leaves the kernel and holds counter lock"
    ):
        replay(lambda: Race({"greedy": keeps(Counter())}), ["greedy"] * 2)
    assert seen == ["greedy"]
    assert current() is before


@pytest.mark.parametrize(
    ("schedule", "step"),
    [(["adder 7"], 1), (["adder 0"] * 5, 5), (["adder 0"] * 4, 5), (["adder 0", "adder 0", "x"], 3)],
)
def test_the_step_that_does_not_fit_is_numbered(schedule: list[str], step: int) -> None:
    with pytest.raises(WrongSchedule) as wrong:
        replay(adders(adds_under_the_lock), schedule)
    assert wrong.value.step == step
    assert str(wrong.value).startswith(f"step {step}")


def test_who_tries_in_vain_is_let_run_twice() -> None:
    """The first time it may have begun before the last step of another; another's step gives two more."""

    def tries() -> Steps[None]:
        while True:
            yield Spin("nothing there")

    def start() -> Race:
        return Race({"tries": tries(), "b": walks(4)})

    for schedule, step in ((["tries"] * 3, 3), (["tries"] * 2 + ["b"] + ["tries"] * 3, 6)):
        with pytest.raises(
            WrongSchedule, match=f"step {step}: tries cannot run: waits for somebody"
        ) as wrong:
            replay(start, schedule)
        assert wrong.value.step == step


@pytest.mark.parametrize(
    ("run", "error"),
    [
        (lambda start: replay(start, ["actor"]), WrongSchedule),
        (lambda start: replay(start, ["actor", "nobody"]), WrongSchedule),
        (lambda start: explore(start), ScheduleFailed),
        (lambda start: blocked_steps(start()), ScheduleFailed),
    ],
)
def test_what_actors_have_begun_is_cleaned_up(
    run: Callable[[Callable[[], Race]], object], error: type
) -> None:
    """Whatever ended the run; that the cleaning up fails does not matter any more."""
    cleaned: list[str] = []

    def actor() -> Steps[None]:
        try:
            yield "begins"
            yield Never()
        finally:
            cleaned.append(str(current()))
            raise KeyError("in vain")

    def start() -> Race:
        return Race({"actor": actor()})

    with pytest.raises(error):
        run(start)
    assert cleaned == ["actor"]


def test_waiting_is_counted_for_each_who_waits() -> None:
    """In turns: the first reads, writes and ends; while it does the last two, the others wait. So does the
    third while the second does."""
    waits = blocked_steps(adders(adds_under_the_lock, 3)())

    assert waits == {"adder 0": 0, "adder 1": 2, "adder 2": 4}


def test_an_actor_has_to_be_a_generator() -> None:
    with pytest.raises(NeverYields, match="actor b is no generator: make it a function that yields"):
        replay(lambda: Race({"a": walks(2), "b": iter(())}), [])  # type: ignore[dict-item]
