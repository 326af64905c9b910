"""Looking, or acting, in the middle of what KVM does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from conformance.broken import BrokenModel
from mmu_model.machine import VirtualMachine


@contextmanager
def before(path: str, act: Callable[[], None]) -> Iterator[None]:
    """Do `act` each time that the model is about to call the function at `path`."""
    model = BrokenModel()

    def probe(original: Any) -> Any:
        def called(*arguments: Any, **named: Any) -> Any:
            act()
            return original(*arguments, **named)

        return called

    model.wrap(path, probe)
    try:
        yield
    finally:
        model.restore()


@contextmanager
def mmu_lock_dropped(vm: VirtualMachine) -> Iterator[None]:
    """KVM yields: whoever holds mmu_lock for write lets others have it meanwhile."""
    lock = vm.kvm.mmu_lock.write
    lock.release()
    try:
        yield
    finally:
        lock.acquire()
