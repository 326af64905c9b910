"""Every order of what can happen to a TDP MMU at once; and each race is lost by a model that is wrong."""

from collections.abc import Callable, Iterator

import pytest

from conformance import races
from conformance.broken import BrokenModel
from conformance.races.wrong import WRONG, Wrong
from mmu_model.kernels import KERNELS
from mmu_model.schedule import Bound, Race, ScheduleFailed, explore, replay


@pytest.fixture
def model() -> Iterator[BrokenModel]:
    """A model that can be broken for the length of a test."""
    broken = BrokenModel()
    yield broken
    broken.restore()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("race", races.RACES, ids=lambda race: race.__name__)
def test_no_order_of_steps_goes_wrong(race: Callable[[str], Race], kernel: str) -> None:
    explored = explore(lambda: race(kernel))

    assert explored.schedules >= 8, "the actors do not get in each other's way"


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("race", races.LOST_BY_THE_KERNELS, ids=lambda race: race.__name__)
def test_what_the_kernels_lose_is_found(race: Callable[[str], Race], kernel: str) -> None:
    """One vCPU stands between two marks of mmu_unsync_pages_lock while the other runs, which overtakes once."""
    with pytest.raises(ScheduleFailed, match="before the flush") as failed:
        explore(lambda: race(kernel), Bound(preemptions=1))

    stands = [step.stands for step in failed.value.steps]
    assert stands.index("marks a page unsync") < stands.index(
        "looks whether anything below the root is unsync"
    )


def test_every_race_is_lost_by_a_wrong_model() -> None:
    lost = {wrong.race for wrong in WRONG}

    assert [race.__name__ for race in races.RACES if race not in lost] == []


@pytest.mark.parametrize(
    ("wrong", "kernel"),
    [
        pytest.param(wrong, kernel, id=f"{wrong.breaks.__name__}-{kernel}")
        for wrong in WRONG
        for kernel in wrong.kernels
    ],
)
def test_a_wrong_model_loses_a_race(wrong: Wrong, kernel: str, model: BrokenModel) -> None:
    """Overtaking twice is enough to see it; and the schedule that is reported loses the race again."""
    wrong.breaks(model)

    with pytest.raises(ScheduleFailed, match=wrong.shows) as failed:
        explore(lambda: wrong.race(kernel), Bound(preemptions=2))
    with pytest.raises(ScheduleFailed, match=wrong.shows):
        replay(lambda: wrong.race(kernel), failed.value.schedule)
