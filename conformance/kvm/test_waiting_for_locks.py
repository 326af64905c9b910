"""What the process and the host do to a VM waits for each lock before it takes it, so that another CPU may have it.

The other CPU takes every lock as soon as it is free, and gives one back when somebody waits for it.
"""

from collections.abc import Callable
from typing import Any

import pytest

from conformance.scenes import GIB, MIB, PAGE, Scene, guest
from mmu_model.hardware.types import Gfn
from mmu_model.kernels import KERNELS
from mmu_model.kvm.dirty_log import clear_dirty_log, get_dirty_log
from mmu_model.kvm.locks import Hold
from mmu_model.kvm.memory_region import change_slot_flags, create_slot, replace_slot
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, KvmMemorySlot
from mmu_model.kvm.notifier import invalidate_range_end, invalidate_range_start
from mmu_model.kvm.task import Steps, Task, finish, running
from mmu_model.kvm.types import PG_LEVEL_2M, Hva
from mmu_model.kvm.vm import Kvm, TdpFormat
from mmu_model.snapshot import MmuKind

SLOTS, INVALIDATE = "slots_lock", "mn_invalidate_lock"
READ, WRITE = "mmu_lock (read)", "mmu_lock (write)"


class OtherCpu:
    """It has each lock as a task of its own, for they are in nobody's order."""

    def __init__(self, kvm: Kvm) -> None:
        locks = kvm.slots_lock, kvm.mmu_lock.write, kvm.mn_invalidate_lock
        self._tasks = {lock: Task(f"who has {lock.name}") for lock in locks}
        self._has: list[Hold] = []

    def lets_finish(self, steps: Steps[Any]) -> list[str]:
        """Run something to its end; the locks that it waited for, by name."""
        waited = []
        self._take()
        try:
            while True:
                stop = next(steps)
                self._take()
                if isinstance(stop, Hold):
                    waited.append(stop.name)
                    self._give(stop)
        except StopIteration:
            return waited
        finally:
            for lock in list(self._has):
                self._release(lock)

    def _take(self) -> None:
        for lock, task in self._tasks.items():
            if lock.ready():
                with running(task):
                    lock.acquire()
                self._has.append(lock)

    def _give(self, wanted: Hold) -> None:
        for lock in list(self._has):
            if not wanted.ready():
                self._release(lock)
        assert wanted.ready(), f"{wanted.name} is waited for by who has it"

    def _release(self, lock: Hold) -> None:
        self._has.remove(lock)
        with running(self._tasks[lock]):
            lock.release()


def used(kernel: str, mmu: MmuKind, tdp_format: TdpFormat, *, pml: bool, logs: bool) -> Scene:
    """A guest that has written to two large pages of a slot at 1 GiB."""
    scene = guest(kernel, mmu, tdp_format=tdp_format, pml=pml)
    flags = KVM_MEM_LOG_DIRTY_PAGES if logs else 0
    scene.vm.add_memory(GIB, 4 * MIB, level=PG_LEVEL_2M, flags=flags)
    for address in (GIB, GIB + PAGE, GIB + 2 * MIB):
        scene.cpu.write(address, 1)
    return scene


def slot_of(scene: Scene) -> KvmMemorySlot:
    """The slot at 1 GiB."""
    slot = scene.vm.kvm.memslots[0].by_id(1)
    assert slot is not None
    return slot


def adds(scene: Scene) -> Steps[None]:
    """The process adds a slot."""
    return create_slot(scene.vm.kvm, KvmMemorySlot(7, Gfn(2 * GIB // PAGE), 1, Hva(0x1000)))


def deletes(scene: Scene) -> Steps[None]:
    """The process deletes the slot."""
    return replace_slot(scene.vm.kvm, slot_of(scene), None)


def starts_the_log(scene: Scene) -> Steps[None]:
    """Writes to the slot are logged from now on."""
    return change_slot_flags(scene.vm.kvm, slot_of(scene), KVM_MEM_LOG_DIRTY_PAGES)


def stops_the_log(scene: Scene) -> Steps[None]:
    """Or not any more."""
    return change_slot_flags(scene.vm.kvm, slot_of(scene), 0)


def gets_the_log(scene: Scene) -> Steps[Any]:
    """KVM_GET_DIRTY_LOG."""
    return get_dirty_log(scene.vm.kvm, slot_of(scene))


def clears_the_log(scene: Scene) -> Steps[None]:
    """KVM_CLEAR_DIRTY_LOG of one page."""
    return clear_dirty_log(scene.vm.kvm, slot_of(scene), {Gfn(GIB // PAGE)})


def invalidates(scene: Scene) -> Steps[None]:
    """The host changes the mapping of a page."""
    start = slot_of(scene).userspace_addr
    yield from invalidate_range_start(scene.vm.kvm, start, Hva(start + PAGE))
    yield from invalidate_range_end(scene.vm.kvm, start, Hva(start + PAGE))


ALIKE: dict[str, tuple[Callable[[Scene], Steps[Any]], bool, list[str]]] = {
    "adds a slot": (adds, False, [SLOTS]),
    "gets the log": (gets_the_log, True, [SLOTS, WRITE]),
    "clears the log": (clears_the_log, True, [SLOTS, WRITE]),
    "invalidates": (invalidates, False, [INVALIDATE, WRITE, WRITE, INVALIDATE]),
}
"""What is done; whether the slot logs; what it waits for with every MMU."""

BY_MMU: dict[str, tuple[Callable[[Scene], Steps[Any]], bool, list[str], list[str]]] = {
    "deletes a slot": (deletes, False, [SLOTS, WRITE, READ], [SLOTS, WRITE]),
    "starts the log": (starts_the_log, False, [SLOTS, READ, WRITE, READ], [SLOTS, WRITE]),
    "stops the log": (stops_the_log, True, [SLOTS, WRITE, READ], [SLOTS, WRITE]),
}
"""The same, with the TDP MMU, most of whose work is done with mmu_lock held for read, and without."""

MMUS = {
    "TDP": (MmuKind.TDP, TdpFormat.NPT, False),
    "TDP with a log": (MmuKind.TDP, TdpFormat.EPT, True),
    "direct": (MmuKind.DIRECT, TdpFormat.NPT, False),
    "shadow": (MmuKind.SHADOW, TdpFormat.NPT, False),
}


def expected(what: str, mmu: str) -> tuple[Callable[[Scene], Steps[Any]], bool, list[str]]:
    """How it is done with an MMU, whether the slot logs, and what is waited for."""
    if what in ALIKE:
        return ALIKE[what]
    act, logs, with_tdp_mmu, without = BY_MMU[what]
    return act, logs, with_tdp_mmu if mmu.startswith("TDP") else without


@pytest.mark.parametrize(
    ("kernel", "mmu"), [(kernel, mmu) for mmu in MMUS for kernel in (KERNELS if mmu == "TDP" else ["6.12"])]
)
@pytest.mark.parametrize("what", [*ALIKE, *BY_MMU])
def test_locks_are_waited_for(kernel: str, mmu: str, what: str) -> None:
    """And what comes of it is what comes of it with no other CPU."""
    kind, tdp_format, pml = MMUS[mmu]
    act, logs, waits = expected(what, mmu)
    scene, twin = (used(kernel, kind, tdp_format, pml=pml, logs=logs) for _ in range(2))

    waited = OtherCpu(scene.vm.kvm).lets_finish(act(scene))

    finish(act(twin))
    assert waited == waits
    assert scene.vm.snapshot() == twin.vm.snapshot()


@pytest.mark.parametrize("mmu", MMUS)
def test_nothing_is_done_to_log_what_cannot_be_written(mmu: str) -> None:
    """A read-only slot: its sptes are what they have to be (kvm_mmu_slot_apply_flags)."""
    kind, tdp_format, pml = MMUS[mmu]
    scene = guest("6.12", kind, tdp_format=tdp_format, pml=pml)
    slot = scene.vm.add_memory(GIB, 4 * MIB, level=PG_LEVEL_2M, flags=KVM_MEM_READONLY)
    scene.reads(GIB)
    pages, flushes = scene.vm.snapshot().pages, scene.vm.kvm.stat["remote_tlb_flush"]
    for flags in (KVM_MEM_READONLY | KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY):
        waited = OtherCpu(scene.vm.kvm).lets_finish(change_slot_flags(scene.vm.kvm, slot, flags))

        assert waited == [SLOTS]
        assert scene.vm.snapshot().pages == pages
        assert scene.vm.kvm.stat["remote_tlb_flush"] == flushes
