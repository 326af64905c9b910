"""A watch on actors that do not yield: a loop without end, in the middle of a step, stops the exploration."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mmu_model.kvm.task import current
from mmu_model.schedule.race import NeverYields


@contextmanager
def watched(standing: Callable[[], Any], seconds: float) -> Iterator[None]:
    """Raise NeverYields in the actor that runs when `standing` gives the same twice in that time.

    Outside the main thread, and where somebody else uses the timer of the process, nobody watches.
    """
    if threading.current_thread() is not threading.main_thread() or any(signal.getitimer(signal.ITIMER_REAL)):
        yield
        return
    last: Any = None

    def look(_number: int, _frame: FrameType | None) -> None:
        nonlocal last
        before, last = last, standing()
        if last == before:
            raise NeverYields(f"actor {current()} has been running for {seconds:g} s and does not yield")

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
