"""Exploring: how many orders there are, how far it goes, and what it may cost."""

import signal
import threading
from collections.abc import Callable, Iterator
from functools import cache
from itertools import permutations
from math import comb

import pytest

from conformance.schedule.actors import Counter, adders, adds, adds_under_the_lock, walkers, walks
from mmu_model.kvm.task import Steps
from mmu_model.schedule import Bound, BoundReached, NeverYields, Race, ScheduleFailed, explore, replay


class Event:
    """Something that happens once."""

    def __init__(self) -> None:
        self.happened = False

    def ready(self) -> bool:
        return self.happened

    def __str__(self) -> str:
        return "the event"


def waits_for(event: Event) -> Steps[None]:
    """Four steps; the third only when it has happened."""
    yield "before"
    yield event
    yield "after"


def brings_about(event: Event) -> Steps[None]:
    """Three steps; it happens in the second."""
    yield "before"
    event.happened = True
    yield "after"


def waiting_race() -> Race:
    event = Event()
    return Race({"waits": waits_for(event), "brings": brings_about(event)})


@cache
def orders(preemptions: int, waited: int = 0, brought: int = 0, last: str = "") -> int:
    """How many orders of that race there are, counted by hand: a switch is one if the last could go on."""
    able = {
        "waits": waited < 4 and not (waited == 2 and brought < 2),
        "brings": brought < 3,
    }
    if not any(able.values()):
        return 1
    total = 0
    for actor in filter(able.get, able):
        left = preemptions - (last not in ("", actor) and able[last])
        if left >= 0:
            total += orders(left, waited + (actor == "waits"), brought + (actor == "brings"), actor)
    return total


@pytest.mark.parametrize("preemptions", [0, 1, 2, 3, 6, None])
def test_only_who_could_have_gone_on_is_overtaken(preemptions: int | None) -> None:
    """Who waits or has ended is followed by another in any case."""
    explored = explore(waiting_race, Bound(preemptions=preemptions))

    assert explored.schedules == orders(100 if preemptions is None else preemptions)
    assert explored.longest == 7


def test_preemptions_left_are_part_of_the_state() -> None:
    """With none allowed each order has states of its own, until the last actor runs."""
    assert explore(walkers(3, 3), Bound(preemptions=0)).states == 1 + 2 * 6
    assert explore(walkers(3, 3), Bound(preemptions=99)).schedules == 20


def test_steps_to_come_back_are_counted() -> None:
    """A step along each of the 12 ways between 9 states, and 1, 2 and 1 to be where a second way begins."""
    explored = explore(walkers(2, 2))

    assert (explored.states, explored.steps, explored.longest) == (9, 16, 4)


def test_the_longest_that_was_tried_is_told() -> None:
    """Orders may differ in length: who is late finds nothing to do. They end in the same state all the same."""

    def closes(counter: Counter) -> Steps[None]:
        yield "about to close"
        counter.value = 1

    def works(counter: Counter) -> Steps[None]:
        yield "looks"
        if not counter.value:
            yield "works"
            yield "has worked"

    def start() -> Race:
        counter = Counter()
        return Race({"closes": closes(counter), "works": works(counter)})

    assert explore(start).longest == 6


def test_a_bound_that_is_just_reached_is_no_obstacle() -> None:
    """36 states, and 10 steps from the start to the end."""
    assert explore(walkers(5, 5), Bound(states=36, steps=10)).states == 36
    with pytest.raises(BoundReached, match="more than 35 states: raise the bound, or bound the preemptions"):
        explore(walkers(5, 5), Bound(states=35))
    with pytest.raises(ScheduleFailed, match="no end after 9 steps") as failed:
        explore(walkers(5, 5), Bound(steps=9))
    assert len(failed.value.steps) == 9


def test_the_first_order_that_fails_is_told() -> None:
    """As in a dictionary: who comes first among the actors goes first."""

    def fails(order: tuple[str, ...]) -> bool:
        try:
            replay(adders(adds), order)
        except ScheduleFailed:
            return True
        return False

    with pytest.raises(ScheduleFailed) as failed:
        explore(adders(adds))
    orders = sorted(set(permutations(["adder 0"] * 3 + ["adder 1"] * 3)))
    assert failed.value.schedule == next(filter(fails, orders))


def test_each_condition_is_asked_after_each_step_and_at_each_end() -> None:
    """What they count is part of the state, so that no order is as another."""
    asked = {"always": 0, "end": 0}

    def ask(what: str) -> Callable[[], None]:
        def asks() -> None:
            asked[what] += 1

        return asks

    def start() -> Race:
        return Race({"a": walks(2), "b": walks(2)}, always=ask("always"), at_end=ask("end"))

    explored = explore(start)
    assert asked == {"always": explored.steps, "end": explored.schedules}
    assert explored.schedules == 6


def test_all_that_do_not_yield_are_refused_by_name() -> None:
    """Also if others do, and whoever comes first."""

    def at_once(counter: Counter) -> Iterator[str]:
        counter.value = 1
        yield from ()

    with pytest.raises(NeverYields, match="actor b never yields: nobody can run in between"):
        explore(lambda: Race({"a": walks(3), "b": at_once(Counter())}))  # type: ignore[dict-item]
    with pytest.raises(NeverYields, match="actor a never yields"):
        explore(lambda: Race({"a": at_once(Counter()), "b": walks(3)}))  # type: ignore[dict-item]


def loops() -> Steps[None]:
    yield "begins"
    while True:
        pass


def test_an_actor_that_loops_in_a_step_is_stopped() -> None:
    """The timer and the handler of the process are as before then."""
    before = signal.getsignal(signal.SIGALRM)

    with pytest.raises(NeverYields, match=r"actor b has been running for 0\.05 s and does not yield"):
        explore(lambda: Race({"a": walks(2), "b": loops()}), Bound(seconds=0.05))
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.parametrize(("looks", "refused"), [(1, False), (2, True)])
def test_it_is_looked_twice_before_an_actor_is_stopped(looks: int, refused: bool) -> None:
    """Who has made a step in between has only been slow: the watch is called here when the actor wants."""

    def slow() -> Steps[None]:
        for _ in range(3):
            yield "on the way"
            for _ in range(looks):
                signal.raise_signal(signal.SIGALRM)

    def start() -> Race:
        return Race({"a": slow(), "b": walks(2)})

    if refused:
        with pytest.raises(NeverYields, match="actor a has been running for 30 s"):
            explore(start)
    else:
        assert explore(start).schedules == comb(6, 2)


def test_a_timer_of_somebody_else_is_left_alone() -> None:
    rang: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rang.append(number))
    signal.setitimer(signal.ITIMER_REAL, 100)
    try:
        assert explore(adders(adds_under_the_lock)).schedules > 1
        assert 90 < signal.getitimer(signal.ITIMER_REAL)[0] <= 100
        signal.raise_signal(signal.SIGALRM)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert rang == [signal.SIGALRM]


def test_beside_the_main_thread_it_explores_without_a_watch() -> None:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(explore(walkers(2, 2)).schedules))

    thread.start()
    thread.join()

    assert found == [6]
