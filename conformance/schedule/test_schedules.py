"""Exploring every order: textbook races first."""

from collections.abc import Iterator
from itertools import permutations
from math import comb

import pytest

from conformance.schedule.actors import (
    Counter,
    adders,
    adds,
    adds_under_the_lock,
    takers_in_two_orders,
    walkers,
    walks,
)
from mmu_model.kvm.task import Spin, Steps
from mmu_model.schedule import (
    Bound,
    BoundReached,
    NeverYields,
    Race,
    ScheduleFailed,
    WrongSchedule,
    blocked_steps,
    explore,
    replay,
)


def test_a_lost_update_is_found() -> None:
    with pytest.raises(ScheduleFailed, match="1 of 2") as failed:
        explore(adders(adds))

    assert len(failed.value.schedule) == 6
    with pytest.raises(ScheduleFailed, match="1 of 2"):
        replay(adders(adds), failed.value.schedule)


@pytest.mark.parametrize("count", [2, 3])
def test_a_lock_makes_it_vanish(count: int) -> None:
    assert explore(adders(adds_under_the_lock, count)).schedules > 1


@pytest.mark.parametrize(("first", "second"), [(2, 2), (3, 5), (7, 4), (10, 10)])
def test_the_number_of_schedules_is_the_binomial(first: int, second: int) -> None:
    """And that of states is the size of the grid."""
    explored = explore(walkers(first, second))

    assert explored.schedules == comb(first + second, first)
    assert explored.states == (first + 1) * (second + 1)
    assert explored.longest == first + second


def test_three_actors_make_the_multinomial() -> None:
    explored = explore(walkers(2, 3, 4))

    assert explored.schedules == comb(9, 2) * comb(7, 3)
    assert explored.states == 3 * 4 * 5


def test_visiting_equal_states_once_loses_no_outcome() -> None:
    """Every order, tried one by one, ends in one of the states that the exploration ended in."""
    ends: set[int] = set()

    def start() -> Race:
        counter = Counter()
        return Race({"a": adds(counter), "b": adds(counter)}, at_end=lambda: ends.add(counter.value))

    explored = explore(start)
    seen, ends = ends, set()
    orders = set(permutations("aaabbb"))
    for order in orders:
        replay(start, order)

    assert seen == ends == {1, 2}
    assert explored.schedules == len(orders) == comb(6, 3)


def test_the_place_in_a_loop_is_part_of_the_state() -> None:
    """An iterator that has no name is nevertheless seen."""

    def actor() -> Steps[None]:
        for _ in iter((0, 0, 0)):
            yield "in the loop"

    def start() -> Race:
        return Race({"a": actor(), "b": walks(2)})

    explored = explore(start)
    assert explored.states == 5 * 3


def test_preemptions_can_be_bounded() -> None:
    """Without any, whoever has begun goes on to the end."""
    assert explore(walkers(4, 4), Bound(preemptions=0)).schedules == 2
    assert explore(walkers(4, 4), Bound(preemptions=1)).schedules == 2 + 2 * 3
    assert explore(adders(adds), Bound(preemptions=0)).schedules == 2
    with pytest.raises(ScheduleFailed):
        explore(adders(adds), Bound(preemptions=1))


def test_locks_taken_in_two_orders_are_a_deadlock() -> None:
    with pytest.raises(ScheduleFailed, match="nobody can go on: one waits for b is held by two; two waits"):
        explore(takers_in_two_orders)


def test_an_actor_that_spins_is_no_progress() -> None:
    def spins() -> Steps[None]:
        while True:
            yield "again"

    with pytest.raises(ScheduleFailed, match="come back to where they were"):
        explore(lambda: Race({"a": spins(), "b": walks(2)}))


def test_who_tries_again_waits_for_others() -> None:
    """It is not let run in vain, and is stuck when nobody is left who could help."""

    def tries(counter: Counter) -> Steps[None]:
        yield "begins"
        while not counter.value:
            yield Spin("nothing there")

    def start() -> Race:
        counter = Counter()
        return Race({"tries": tries(counter), "helps": adds(counter)})

    assert explore(start).schedules > 4
    with pytest.raises(ScheduleFailed, match="nobody can go on: tries waits for somebody else to go on"):
        explore(lambda: Race({"tries": tries(Counter()), "b": walks(2)}))


def test_an_actor_that_counts_for_ever_meets_the_bound() -> None:
    def counts() -> Steps[None]:
        number = 0
        while True:
            number += 1
            yield "again"

    with pytest.raises(ScheduleFailed, match="no end after 50 steps"):
        explore(lambda: Race({"a": counts(), "b": walks(2)}), Bound(steps=50))
    with pytest.raises(ScheduleFailed, match="no end after 1000 steps"):
        explore(lambda: Race({"a": counts()}))


def test_a_condition_that_must_always_hold_is_looked_at_after_every_step() -> None:
    def start() -> Race:
        counter = Counter()

        def never_two() -> None:
            assert counter.value < 2

        return Race({"a": adds(counter), "b": adds(counter)}, always=never_two)

    with pytest.raises(ScheduleFailed) as failed:
        explore(start)
    assert failed.value.steps[-1].stands == "ends"


def test_an_actor_that_never_yields_is_refused() -> None:
    def at_once() -> Iterator[str]:
        yield from ()

    with pytest.raises(NeverYields, match="actor b never yields"):
        explore(lambda: Race({"a": walks(2), "b": at_once()}))  # type: ignore[dict-item]
    with pytest.raises(NeverYields, match="actor b is no generator"):
        explore(lambda: Race({"a": walks(2), "b": None}))  # type: ignore[dict-item]


def test_more_states_than_the_bound_are_refused() -> None:
    with pytest.raises(BoundReached, match="more than 20 states"):
        explore(walkers(5, 5), Bound(states=20))


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (["adder 7"], "step 1: there is no actor 'adder 7'; there are adder 0, adder 1"),
        (
            ["adder 0"] * 2 + ["adder 1"] * 2,
            "step 4: adder 1 cannot run: waits for counter lock is held by adder 0",
        ),
        (["adder 0"] * 4, "step 5 is missing: adder 1 could go on"),
        (["adder 0"] * 5, "step 5: adder 0 cannot run: ends"),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused(schedule: list[str], message: str) -> None:
    with pytest.raises(WrongSchedule, match=message):
        replay(adders(adds_under_the_lock), schedule)


def test_waiting_is_counted_in_steps_of_others() -> None:
    """The first holds the lock for three steps; the second can do nothing meanwhile."""
    assert blocked_steps(adders(adds_under_the_lock)()) == {"adder 0": 0, "adder 1": 2}
    assert blocked_steps(adders(adds, 1)()) == {"adder 0": 0}
