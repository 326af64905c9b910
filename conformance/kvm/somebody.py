"""Somebody else, who has what one wants."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmu_model.kvm.task import Task, running


@contextmanager
def has(lock: Any) -> Iterator[None]:
    """Another task holds a lock, and does not give it back."""
    somebody = Task("somebody")
    with running(somebody):
        lock.acquire()
    try:
        yield
    finally:
        with running(somebody):
            lock.release()
