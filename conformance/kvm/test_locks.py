"""Locks, RCU: who holds them is known, and what lockdep would refuse is refused."""

import re

import pytest

from mmu_model.kvm.locks import LockNotFree, LockNotHeld, Mutex, RwLock, SpinLock
from mmu_model.kvm.rcu import Rcu
from mmu_model.kvm.task import (
    LeftWithLocks,
    SleepInAtomicContext,
    Spin,
    Steps,
    Task,
    WouldWaitForEver,
    current,
    finish,
    leave,
    might_sleep,
    running,
)

ONE, OTHER = Task("one"), Task("other")


def test_a_read_write_lock_has_many_readers_or_one_writer() -> None:
    lock = RwLock("mmu_lock")
    with running(ONE), lock.read:
        with running(OTHER), lock.read:
            lock.assert_held_read()
        with running(OTHER), pytest.raises(LockNotFree, match=r"mmu_lock \(read\) is held by one"):
            lock.write.acquire()
    with running(ONE), lock.write:
        lock.assert_held_write()
        with running(OTHER), pytest.raises(LockNotFree, match=r"mmu_lock \(write\) is held by one"):
            lock.read.acquire()


def test_who_relies_on_a_lock_has_to_hold_it_that_way_himself() -> None:
    lock = RwLock("mmu_lock")
    with running(ONE), lock.write:
        with pytest.raises(LockNotHeld, match=r"one needs mmu_lock \(read\) and does not hold it"):
            lock.assert_held_read()
        with running(OTHER), pytest.raises(LockNotHeld, match=r"other needs .* is held by one"):
            lock.assert_held_write()
        lock.assert_held()
    with pytest.raises(LockNotHeld):
        lock.assert_held()


def test_a_lock_is_released_by_its_holder_only() -> None:
    lock = SpinLock("tdp_mmu_pages_lock")
    with (
        running(ONE),
        lock,
        running(OTHER),
        pytest.raises(LockNotHeld, match=r"other releases .* held by one"),
    ):
        lock.release()
    with pytest.raises(LockNotHeld, match="held by nobody"):
        lock.release()


def test_a_lock_is_not_taken_twice() -> None:
    for lock in (SpinLock("a"), Mutex("b"), RwLock("c").read, RwLock("d").write):
        with running(ONE), lock:
            with pytest.raises(LockNotFree, match=f"one takes {re.escape(lock.name)}"):
                lock.acquire()
            if not lock.shared:
                with running(OTHER), pytest.raises(LockNotFree, match="is held by one already"):
                    lock.acquire()
        assert lock.ready()


def test_who_holds_a_spinlock_does_not_sleep() -> None:
    slots_lock, pages_lock = Mutex("slots_lock"), SpinLock("tdp_mmu_pages_lock")
    rcu, srcu = Rcu("RCU"), Rcu("SRCU", sleepable=True)
    for atomic in (pages_lock, rcu.read):
        with atomic, pytest.raises(SleepInAtomicContext, match="slots_lock"):
            slots_lock.acquire()
        with atomic, pytest.raises(SleepInAtomicContext, match="SRCU"):
            finish(srcu.synchronize())
    with srcu.read, slots_lock, pages_lock:
        pass


def test_a_lock_is_contended_while_somebody_waits() -> None:
    """Readers are not in the way of readers."""
    lock = RwLock("mmu_lock")
    reader, writer = lock.read.wait(), lock.write.wait()
    with lock.read:
        next(reader)
        assert not lock.is_contended()
        next(writer)
        assert lock.is_contended()
        with pytest.raises(WouldWaitForEver, match=r"wait for ever: mmu_lock \(read\) is held by"):
            finish(lock.write.wait())
    writer.close()
    with lock.write:
        assert lock.is_contended()
    finish(reader)
    assert not lock.is_contended()


def test_what_readers_may_see_is_freed_when_they_are_gone() -> None:
    """Readers that come later do not matter; nested sections are one."""
    rcu, freed = Rcu("RCU"), list[str]()
    rcu.call(lambda: freed.append("unseen"))
    assert freed == ["unseen"]
    with running(ONE):
        rcu.lock()
        rcu.lock()
    with rcu.read:
        with running(OTHER):
            rcu.call(lambda: freed.append("seen"))
            rcu.lock()
        with running(ONE):
            rcu.unlock()
    assert freed == ["unseen"]
    with running(ONE):
        rcu.unlock()
    assert freed == ["unseen", "seen"]


def test_a_grace_period_is_waited_for() -> None:
    srcu = Rcu("SRCU", sleepable=True)
    with running(ONE):
        srcu.lock()
    with pytest.raises(WouldWaitForEver, match="the readers of SRCU"):
        finish(srcu.synchronize())
    with running(ONE):
        srcu.unlock()
    finish(srcu.synchronize())


def test_what_is_protected_is_not_followed_outside_a_section() -> None:
    rcu = Rcu("RCU")
    with pytest.raises(LockNotHeld, match="outside a read-side section"):
        rcu.assert_held()
    with pytest.raises(LockNotHeld):
        rcu.unlock()


@pytest.mark.parametrize("sleepable", [True, False])
def test_sections_nest_and_end_once(sleepable: bool) -> None:
    """Whoever is in one holds something, or may not sleep, until the outermost is over."""
    rcu = Rcu("RCU", sleepable=sleepable)
    task = Task("reader")
    with running(task):
        with rcu.read:
            with rcu.read:
                assert (task.held, task.atomic) == (([rcu], 0) if sleepable else ([], 1))
            rcu.assert_held()
            assert (task.held, task.atomic) == (([rcu], 0) if sleepable else ([], 1))
            with pytest.raises(LeftWithLocks, match="RCU"):
                leave()
        assert (task.held, task.atomic) == ([], 0)
        leave()
        with pytest.raises(LockNotHeld, match="reader leaves a read-side section of RCU and is in none"):
            rcu.unlock()
    with pytest.raises(ZeroDivisionError), rcu.read:
        raise ZeroDivisionError
    leave()


def test_what_waits_for_readers_waits_for_those_of_its_time() -> None:
    """Each callback for its own readers; one that is due is called once, the others stay."""
    rcu, freed = Rcu("RCU"), list[str]()
    with running(ONE):
        rcu.lock()
    rcu.call(lambda: freed.append("first"))
    with running(OTHER):
        rcu.lock()
    rcu.call(lambda: freed.append("second"))
    with running(ONE):
        rcu.unlock()
        assert freed == ["first"]
        rcu.lock()
        rcu.unlock()
    assert freed == ["first"]
    with running(OTHER):
        rcu.unlock()
    assert freed == ["first", "second"]


def test_who_spins_goes_on_when_another_has_run() -> None:
    """Alone it would spin for ever."""

    def spins() -> Steps[int]:
        yield "looks"
        yield Spin("an spte is frozen")
        return 5

    with pytest.raises(WouldWaitForEver, match="somebody else to go on, to try again: an spte is frozen"):
        finish(spins())


def test_code_that_nobody_overtakes_is_a_function() -> None:
    """What it waits for has happened; what it returns is returned."""
    lock = SpinLock("lock")

    def adds(number: int) -> Steps[int]:
        yield "adds"
        yield from lock.wait()
        return number + 1

    assert finish(adds(4)) == 5


def test_who_is_running() -> None:
    """Whoever was before is again, however it ends; only he is in atomic context who made it so."""
    before = current()
    with running(ONE):
        assert current() is ONE
    with pytest.raises(ZeroDivisionError), running(ONE):
        raise ZeroDivisionError
    assert current() is before
    lock = SpinLock("lock")
    with lock, pytest.raises(SleepInAtomicContext, match="a page"):
        might_sleep("for a page")
    with lock, running(ONE):
        might_sleep("for a page")
    might_sleep("for a page")
