"""Some races, as far as one preemption shows them: `tests/tdp` explores all of them in every order."""

from collections.abc import Callable

import pytest

from conformance import races
from mmu_model.schedule import Bound, Race, explore


@pytest.mark.parametrize(
    ("race", "kernel"),
    [
        (races.huge_page_against_small, "6.12"),
        (races.flush_against_entry, "6.12"),
        (races.fast_page_fault_against_log, "6.12"),
        (races.dirty_flag_against_zap, "6.12"),
        (races.dirty_flag_against_aging, "6.12"),
        (races.two_root_allocations, "6.1"),
        (races.two_root_allocations, "6.12"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_no_single_preemption_goes_wrong(race: Callable[[str], Race], kernel: str) -> None:
    explored = explore(lambda: race(kernel), Bound(preemptions=1))

    assert explored.schedules >= 6, "the actors do not get in each other's way"
