"""Every order in which a few actors can run.

An actor is a generator that yields wherever another may run (:mod:`mmu_model.kvm.task`). :func:`explore` runs
actors in every order. It starts anew for each order, since a generator cannot be copied; a state that was
reached before, by whatever order, is not gone on from again, so that the number of states and not that of
orders is what it costs. What goes wrong is raised with the order that led there, which :func:`replay` repeats.
"""

from mmu_model.schedule.explore import explore
from mmu_model.schedule.file import read_schedule, write_schedule
from mmu_model.schedule.race import (
    Bound,
    BoundReached,
    Exploration,
    NeverYields,
    Race,
    ScheduleError,
    ScheduleFailed,
    Step,
    WrongSchedule,
)
from mmu_model.schedule.run import blocked_steps, replay

__all__ = [
    "Bound",
    "BoundReached",
    "Exploration",
    "NeverYields",
    "Race",
    "ScheduleError",
    "ScheduleFailed",
    "Step",
    "WrongSchedule",
    "blocked_steps",
    "explore",
    "read_schedule",
    "replay",
    "write_schedule",
]
