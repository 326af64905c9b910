"""What lockdep refuses: locks taken in the wrong order or without another, and sleeping where nobody may."""

import pytest

from mmu_model.hardware.types import Gfn
from mmu_model.kvm.enter_guest import vcpu_enter_guest
from mmu_model.kvm.fault import KvmPageFault
from mmu_model.kvm.faultin import faultin_pfn, mmu_invalidate_retry_gfn
from mmu_model.kvm.locks import LockNotHeld, Mutex, RwLock, SpinLock, WrongLockOrder
from mmu_model.kvm.memory_region import create_slot, kvm_swap_active_memslots
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.kvm.rcu import Rcu
from mmu_model.kvm.requests import flush_remote_tlbs, kvm_vcpu_kick, leave_guest_mode
from mmu_model.kvm.task import (
    LeftWithLocks,
    SleepInAtomicContext,
    Task,
    WouldWaitForEver,
    finish,
    leave,
    running,
)
from mmu_model.kvm.types import Hva
from mmu_model.kvm.vcpu import KVM_REQ_TLB_FLUSH, VcpuMode
from mmu_model.kvm.vm import Kvm
from mmu_model.machine import VirtualMachine
from mmu_model.tdp.iter import TdpIter, tdp_mmu_iter_cond_resched


@pytest.fixture
def vm() -> VirtualMachine:
    vm = VirtualMachine()
    vm.add_memory(0, 1 << 20)
    vm.add_cpu().read(0x5000)
    return vm


@pytest.fixture
def kvm(vm: VirtualMachine) -> Kvm:
    return vm.kvm


def test_locks_in_their_order(kvm: Kvm) -> None:
    with kvm.slots_lock, kvm.srcu.read, kvm.mmu_lock.write, kvm.tdp_mmu_pages_lock:
        pass
    with kvm.mmu_lock.read, kvm.tdp_mmu_pages_lock, kvm.mmu_unsync_pages_lock:
        pass


def test_what_waits_for_readers_is_not_taken_by_a_reader(kvm: Kvm) -> None:
    """Who holds slots_lock waits for the readers of the memslots."""
    with kvm.srcu.read, pytest.raises(WrongLockOrder, match="takes slots_lock inside SRCU of the memslots"):
        kvm.slots_lock.acquire()


@pytest.mark.parametrize("way", ["read", "write"])
def test_the_innermost_locks_are_taken_inside_mmu_lock(kvm: Kvm, way: str) -> None:
    for lock in (kvm.tdp_mmu_pages_lock, kvm.mmu_unsync_pages_lock):
        with pytest.raises(WrongLockOrder, match=f"takes {lock.name} without mmu_lock around it"):
            lock.acquire()
        with getattr(kvm.mmu_lock, way):
            lock.acquire()
            lock.release()


def test_mmu_lock_is_not_taken_inside_an_inner_lock(kvm: Kvm) -> None:
    with (
        kvm.mn_invalidate_lock,
        pytest.raises(WrongLockOrder, match=r"mmu_lock \(read\) inside mn_invalidate"),
    ):
        kvm.mmu_lock.read.acquire()


def test_the_order_is_that_of_one_task(kvm: Kvm) -> None:
    """What another holds does not matter; and what was released is out of the way."""
    with kvm.mn_invalidate_lock, running(Task("other")), kvm.mmu_lock.write:
        pass
    with kvm.mmu_lock.write:
        pass
    with kvm.slots_lock:
        pass


def test_locks_without_a_place_in_the_order_are_free() -> None:
    first, second = Mutex("first"), Mutex("second")
    with first, second:
        pass
    with second, first:
        pass
    with RwLock("placed", order=1).read, SpinLock("third"), SpinLock("fourth"):
        pass


def test_the_host_finds_no_page_for_who_holds_mmu_lock(vm: VirtualMachine, kvm: Kvm) -> None:
    """It may have to read it from a disk."""
    (vcpu,) = kvm.vcpus
    fault = KvmPageFault(0x9000, 0, prefetch=False, is_tdp=True, nx_huge_pages=False)
    fault.gfn, fault.slot = Gfn(9), vcpu.memslots.find(9)
    with kvm.mmu_lock.read, pytest.raises(SleepInAtomicContext, match="for the host to find a page"):
        finish(faultin_pfn(vcpu, fault, 7))


def test_mmu_lock_is_given_away_by_who_holds_nothing_else(kvm: Kvm) -> None:
    """Not in an RCU read-side section, and not inside another spinlock."""
    lock = kvm.mmu_lock
    for besides in (kvm.rcu.read, kvm.tdp_mmu_pages_lock):
        with (
            lock.read,
            besides,
            pytest.raises(SleepInAtomicContext, match=r"gives mmu_lock away and is in atomic"),
        ):
            finish(lock.cond_resched())
    with lock.read:
        finish(lock.cond_resched())
        lock.assert_held_read()


def test_a_walk_leaves_its_read_side_section_to_give_mmu_lock_away(kvm: Kvm) -> None:
    """And is in it again afterwards."""
    writer = kvm.mmu_lock.write.wait()
    next(writer)
    with kvm.mmu_lock.write, kvm.rcu.read:
        place = TdpIter(kvm, kvm.tdp_mmu_roots[0], Gfn(0))
        while not place.has_made_progress():
            place.next()
        assert finish(tdp_mmu_iter_cond_resched(kvm, place))
        kvm.rcu.assert_held()
        kvm.mmu_lock.assert_held_write()
    writer.close()


def test_who_reads_does_not_wait_for_the_readers() -> None:
    srcu = Rcu("SRCU", sleepable=True)
    with srcu.read, pytest.raises(WouldWaitForEver, match="waits for the readers of SRCU and is one of them"):
        finish(srcu.synchronize())


def test_memslots_change_under_slots_lock_only(kvm: Kvm) -> None:
    slot = KvmMemorySlot(5, Gfn(1 << 20), 1, Hva(0x1000))
    with pytest.raises(Exception, match="needs slots_lock and does not hold it"):
        finish(kvm_swap_active_memslots(kvm, kvm.memslots[0], None, slot))
    with kvm.mmu_lock.write, pytest.raises(SleepInAtomicContext, match="slots_lock"):
        finish(create_slot(kvm, slot))


def test_whether_a_mapping_is_out_of_date_is_asked_under_mmu_lock(kvm: Kvm) -> None:
    """Held either way: otherwise the host may begin to change it right after the answer."""
    with pytest.raises(LockNotHeld, match="needs mmu_lock"):
        mmu_invalidate_retry_gfn(kvm, kvm.mmu_invalidate_seq)
    for hold in (kvm.mmu_lock.read, kvm.mmu_lock.write):
        with hold:
            assert not mmu_invalidate_retry_gfn(kvm, kvm.mmu_invalidate_seq)
            assert mmu_invalidate_retry_gfn(kvm, kvm.mmu_invalidate_seq - 1)


def test_memslots_wait_for_the_host(vm: VirtualMachine, kvm: Kvm) -> None:
    """As long as it is changing mappings, of whatever memory."""
    kvm.mn_active_invalidate_count = 1
    with pytest.raises(WouldWaitForEver, match="changes of the host's mappings to be over"):
        vm.add_memory(1 << 30, 4096)
    kvm.mn_active_invalidate_count = 0


def test_nobody_leaves_with_a_lock(kvm: Kvm) -> None:
    for hold in (kvm.slots_lock, kvm.mmu_lock.read, kvm.srcu.read):
        with hold, pytest.raises(LeftWithLocks, match="leaves the kernel and holds"):
            leave()
    with kvm.rcu.read, pytest.raises(LeftWithLocks, match="holds an RCU read-side section"):
        leave()
    leave()


def test_a_flush_waits_for_a_vcpu_that_is_in_the_guest(kvm: Kvm) -> None:
    """It is kicked, and once it is outside, all has been flushed."""
    (vcpu,) = kvm.vcpus
    finish(vcpu_enter_guest(vcpu, lambda: setattr(vcpu, "requests", 0)))
    flush = flush_remote_tlbs(kvm)
    kick = next(flush)

    assert (vcpu.mode, vcpu.kicked) == (VcpuMode.EXITING_GUEST_MODE, True)
    assert not kick.ready()
    with pytest.raises(WouldWaitForEver, match="vCPUs that were kicked to be outside of the guest"):
        kvm.flush_remote_tlbs()
    leave_guest_mode(vcpu)
    assert kick.ready()
    assert vcpu.requests & KVM_REQ_TLB_FLUSH


@pytest.mark.parametrize(
    ("mode", "request_kicks", "kick_kicks"),
    [
        (VcpuMode.OUTSIDE_GUEST_MODE, False, False),
        (VcpuMode.IN_GUEST_MODE, True, True),
        (VcpuMode.EXITING_GUEST_MODE, True, False),
        (VcpuMode.READING_SHADOW_PAGE_TABLES, True, False),
    ],
)
def test_who_has_to_be_interrupted(kvm: Kvm, mode: VcpuMode, request_kicks: bool, kick_kicks: bool) -> None:
    """For a request whose maker waits, whoever is not outside; else only who is in the guest, once."""
    (vcpu,) = kvm.vcpus
    vcpu.mode = mode
    kvm.make_all_cpus_request(KVM_REQ_TLB_FLUSH)
    assert vcpu.kicked is request_kicks
    vcpu.mode, vcpu.kicked = mode, False
    kvm_vcpu_kick(vcpu)
    assert vcpu.kicked is kick_kicks


def test_a_vcpu_does_not_enter_with_a_request(kvm: Kvm) -> None:
    """One that is made between its two looks is served first."""
    (vcpu,) = kvm.vcpus
    prepared = []

    def prepare() -> None:
        prepared.append(vcpu.requests)
        vcpu.requests = 0

    entering = vcpu_enter_guest(vcpu, prepare)
    next(entering)
    kvm.make_all_cpus_request(KVM_REQ_TLB_FLUSH)
    finish(entering)

    assert len(prepared) == 2
    assert prepared[1] & KVM_REQ_TLB_FLUSH
    assert vcpu.mode is VcpuMode.IN_GUEST_MODE


def test_a_read_write_lock_knows_its_place() -> None:
    outer, inner = RwLock("outer", order=1), RwLock("inner", order=2)
    with outer.read, inner.write:
        pass
    with inner.read, pytest.raises(WrongLockOrder, match=r"takes outer \(write\) inside inner \(read\)"):
        outer.write.acquire()
