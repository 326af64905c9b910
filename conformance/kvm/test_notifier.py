"""What the host announces of the process's memory, and what becomes of sptes for it (kvm_main.c: the MMU notifier)."""

from collections.abc import Callable
from typing import Any

import pytest

from conformance.kvm import somebody
from conformance.looking import reached, structs
from conformance.scenes import GIB, PAGE, Scene, guest
from mmu_model.kvm.errors import KvmBug
from mmu_model.kvm.locks import LockNotHeld
from mmu_model.kvm.memory_region import add_memory_region
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.kvm.notifier import (
    change_pte,
    clear_flush_young,
    invalidate_range_end,
    invalidate_range_start,
    mmu_invalidate_begin,
    mmu_invalidate_end,
    test_young,
    wait_for_invalidations,
)
from mmu_model.kvm.process import HostMapping
from mmu_model.kvm.spte import PT_ACCESSED_MASK
from mmu_model.kvm.task import SleepInAtomicContext, Steps, WouldWaitForEver, finish
from mmu_model.kvm.types import PG_LEVEL_4K, Hva
from mmu_model.kvm.vcpu import VcpuMode
from mmu_model.kvm.vm import TdpFormat
from mmu_model.kvm.zap_all import kvm_mmu_zap_all_fast
from mmu_model.machine import VirtualMachine
from mmu_model.snapshot import MmuKind

test_young.__test__ = False  # type: ignore[attr-defined]  # no test, whatever its name

FIRST, PAGES = 3, 4
"""Of ten pages of the process the guest has these, from 1 GiB on."""


def partly(kernel: str, mmu: MmuKind) -> tuple[Scene, Hva]:
    """A guest that uses all of its slot, which is a part of what the process has there; where that begins."""
    scene = guest(kernel, mmu)
    start = scene.vm.process.mmap(10)
    add_memory_region(scene.vm.kvm, 1, GIB, PAGES * PAGE, Hva(start + FIRST * PAGE))
    for n in range(PAGES):
        scene.cpu.write(GIB + n * PAGE, n)
    return scene, start


def mapped(scene: Scene) -> set[int]:
    """Which pages of the slot sptes lead to, as pages of the process's."""
    return {leaf.offset - (GIB >> 12) + FIRST for leaf in reached(scene.vm.snapshot())} & set(range(10))


RANGES = [(0, 3), (0, 4), (2, 10), (3, 4), (4, 6), (5, 7), (6, 8), (7, 10)]
"""Wherever a change begins and ends: within the slot, at its edges, or beyond it."""


def test_what_is_announced_is_unmapped_and_nothing_else(mmu: MmuKind) -> None:
    """It is one change, with a flush if anything was mapped."""
    scene, start = partly("6.12", mmu)
    kvm, ours = scene.vm.kvm, set(range(FIRST, FIRST + PAGES))
    for first, behind in RANGES:
        hit = ours & set(range(first, behind))
        for n in range(PAGES):
            scene.cpu.write(GIB + n * PAGE, n)
        flushes, seq = kvm.stat["remote_tlb_flush"], kvm.mmu_invalidate_seq

        scene.vm.process.madvise_dontneed(Hva(start + first * PAGE), behind - first)

        assert mapped(scene) == ours - hit
        assert (kvm.stat["remote_tlb_flush"] - flushes, kvm.mmu_invalidate_seq - seq) == (bool(hit),) * 2
        assert (kvm.mmu_invalidate_in_progress, kvm.mn_active_invalidate_count) == (0, 0)


def test_a_change_is_counted_while_it_lasts(mmu: MmuKind) -> None:
    """Two that overlap in time are two; memory that is not the guest's counts for memslots alone."""
    scene, start = partly("6.12", mmu)
    kvm = scene.vm.kvm
    theirs, ours = (start, Hva(start + PAGE)), (Hva(start + FIRST * PAGE), Hva(start + 5 * PAGE))
    before = kvm.mmu_invalidate_seq
    counted = []
    for act, pages in (
        (invalidate_range_start, ours),
        (invalidate_range_start, theirs),
        (invalidate_range_start, ours),
        (invalidate_range_end, ours),
        (invalidate_range_end, theirs),
        (invalidate_range_end, ours),
        (invalidate_range_end, theirs),
    ):
        finish(act(kvm, *pages))
        counted.append(
            (kvm.mn_active_invalidate_count, kvm.mmu_invalidate_in_progress, kvm.mmu_invalidate_seq - before)
        )

    assert counted == [(1, 1, 0), (2, 1, 0), (3, 2, 0), (2, 1, 1), (1, 1, 1), (0, 0, 2), (0, 0, 2)]


def test_memory_of_two_slots_is_unmapped_from_both(kernel: str, mmu: MmuKind) -> None:
    """It is one change, and takes one flush; SMM has slots of its own."""
    scene, start = partly(kernel, mmu)
    kvm = scene.vm.kvm
    add_memory_region(kvm, 2, 2 * GIB, PAGE, Hva(start + FIRST * PAGE))
    add_memory_region(kvm, 1, 2 * GIB, PAGE, Hva(start + FIRST * PAGE), as_id=1)
    scene.cpu.read(GIB)
    scene.cpu.read(2 * GIB)
    flushes, seq = kvm.stat["remote_tlb_flush"], kvm.mmu_invalidate_seq

    scene.vm.process.madvise_dontneed(Hva(start + FIRST * PAGE), 1)

    left = {leaf.offset for leaf in reached(scene.vm.snapshot())}
    assert not left & {GIB >> 12, 2 * GIB >> 12}
    assert (kvm.stat["remote_tlb_flush"] - flushes, kvm.mmu_invalidate_seq - seq) == (1, 1)
    assert (scene.reads(GIB), scene.reads(2 * GIB)) == (0, 0)


def slot_of(scene: Scene) -> KvmMemorySlot:
    """The slot at 1 GiB."""
    slot = scene.vm.kvm.memslots[0].find(GIB >> 12)
    assert slot is not None
    return slot


@pytest.mark.parametrize("tdp_format", [TdpFormat.NPT, TdpFormat.EPT_WITHOUT_AD])
def test_use_is_noticed_page_by_page(kernel: str, mmu: MmuKind, tdp_format: TdpFormat) -> None:
    """Asking about one page says nothing of the next; to test is not to forget; a use since is noticed."""
    scene = guest(kernel, mmu, memory={GIB: 4 * PAGE}, tdp_format=tdp_format)
    process, slot = scene.vm.process, slot_of(scene)
    for n in range(2):
        scene.cpu.write(GIB + n * PAGE, n)

    def used(n: int, *, forget: bool) -> bool:
        return process.was_used(slot.hva((GIB >> 12) + n), 1, forget=forget)

    assert [used(0, forget=False), used(0, forget=False), used(2, forget=False)] == [True, True, False]
    assert [used(0, forget=True), used(0, forget=True), used(0, forget=False)] == [True, False, False]
    assert used(1, forget=False)
    scene.cpu.read(GIB)
    assert used(0, forget=True)
    assert not used(3, forget=True)


def test_aging_flushes_what_was_used(kernel: str, mmu: MmuKind) -> None:
    """So that the next use sets the flag again; what was not used needs none (kvm_age_gfn)."""
    scene = guest(kernel, mmu, memory={GIB: 4 * PAGE})
    stat, slot = scene.vm.kvm.stat, slot_of(scene)
    flushes = []
    scene.cpu.read(GIB)
    for forget in (False, True, True):
        before = stat["remote_tlb_flush"]
        scene.vm.process.was_used(slot.hva(GIB >> 12), 1, forget=forget)
        flushes.append(stat["remote_tlb_flush"] - before)
    scene.cpu.read(GIB)

    (leaf,) = [leaf for leaf in reached(scene.vm.snapshot()) if leaf.offset == GIB >> 12]
    assert (flushes, bool(leaf.spte.raw & PT_ACCESSED_MASK)) == ([0, 1, 0], True)


Act = Callable[[VirtualMachine, Hva, Hva], Steps[Any]]

WAITS: dict[str, Act] = {
    "start": lambda vm, start, end: invalidate_range_start(vm.kvm, start, end),
    "end": lambda vm, start, end: invalidate_range_end(vm.kvm, start, end),
    "age": lambda vm, start, end: clear_flush_young(vm.kvm, start, end),
    "test": lambda vm, start, end: test_young(vm.kvm, start, end),
}


@pytest.mark.parametrize("what", WAITS)
def test_the_notifier_waits_for_mmu_lock(mmu: MmuKind, what: str) -> None:
    scene, start = partly("6.12", mmu)
    act = WAITS[what](scene.vm, Hva(start + FIRST * PAGE), Hva(start + 5 * PAGE))
    with somebody.has(scene.vm.kvm.mmu_lock.write), pytest.raises(WouldWaitForEver, match="mmu_lock"):
        finish(act)


@pytest.mark.parametrize("what", ["start", "end"])
def test_the_notifier_waits_for_who_counts_changes(what: str) -> None:
    scene, start = partly("6.12", MmuKind.TDP)
    with (
        somebody.has(scene.vm.kvm.mn_invalidate_lock),
        pytest.raises(WouldWaitForEver, match="mn_invalidate_lock"),
    ):
        finish(WAITS[what](scene.vm, start, Hva(start + PAGE)))


def test_changes_are_counted_under_mmu_lock() -> None:
    """Faults look at the counts under it."""
    kvm = VirtualMachine().kvm
    for count in (mmu_invalidate_begin, mmu_invalidate_end):
        with pytest.raises(LockNotHeld, match=r"mmu_lock \(write\)"):
            count(kvm)
        with kvm.mmu_lock.read, pytest.raises(LockNotHeld):
            count(kvm)


def mapping_of(scene: Scene, hva: Hva) -> HostMapping:
    """A frame that the host would put there."""
    return HostMapping(scene.vm.host.alloc_user_frames(1, 1), PG_LEVEL_4K, writable=False)


def test_a_page_is_not_replaced_unannounced(kernel: str, mmu: MmuKind) -> None:
    """6.12 is not told at all; 6.1 has to have been told that something is about to change."""
    scene, start = partly(kernel, mmu)
    hva = Hva(start + FIRST * PAGE)
    (notifier,) = scene.vm.process.notifiers
    if kernel == "6.12":
        notifier.change_pte(hva, mapping_of(scene, hva))
        return
    with pytest.raises(KvmBug, match="did not announce it"):
        notifier.change_pte(hva, mapping_of(scene, hva))


def test_a_replaced_page_is_mapped_by_the_next_use(kernel: str, mmu: MmuKind) -> None:
    """The announcement left no spte that could get the new frame; the guest sees the same contents."""
    scene, start = partly(kernel, mmu)
    hva = Hva(start + FIRST * PAGE)
    pfn = scene.vm.process.replace_page(hva, writable=False)
    before = mapped(scene)
    value = scene.reads(GIB)

    (leaf,) = [leaf for leaf in reached(scene.vm.snapshot()) if leaf.offset == GIB >> 12]
    assert (before, value) == ({4, 5, 6}, 0)
    assert (leaf.spte.pfn, leaf.spte.raw & 2) == (pfn, 0)


def test_a_page_elsewhere_is_replaced_without_kvm(mmu: MmuKind) -> None:
    """6.1: a change of other memory is under way, none in a memslot: there is nothing to look at, not even the
    lock is taken."""
    scene, start = partly("6.1", mmu)
    kvm = scene.vm.kvm
    finish(invalidate_range_start(kvm, start, Hva(start + PAGE)))
    with somebody.has(kvm.mmu_lock.write):
        finish(change_pte(kvm, start, mapping_of(scene, start)))
    finish(invalidate_range_end(kvm, start, Hva(start + PAGE)))
    ours = Hva(start + FIRST * PAGE)
    finish(invalidate_range_start(kvm, ours, Hva(ours + PAGE)))
    with somebody.has(kvm.mmu_lock.write), pytest.raises(WouldWaitForEver, match="mmu_lock"):
        finish(change_pte(kvm, ours, mapping_of(scene, ours)))


def test_everything_becomes_unusable_step_by_step(kernel: str) -> None:
    """Generation, roots of the TDP MMU, requests: in that order, and others may run in between."""
    scene = guest(kernel, MmuKind.TDP)
    scene.cpu.read(0x5000)
    kvm, vcpu = scene.vm.kvm, scene.cpu.vcpu
    (root,) = kvm.tdp_mmu_roots
    vcpu.requests = 0
    seen: list[tuple[int, int, int]] = []
    with kvm.slots_lock:
        zapping = kvm_mmu_zap_all_fast(kvm)
        for stop in zapping:
            assert isinstance(stop, str) or stop.ready()
            now = kvm.mmu_valid_gen, root.role.invalid, int(bool(vcpu.requests))
            if not seen or seen[-1] != now:
                seen.append(now)

    assert [state for state in seen if state[0]] == [(1, 0, 0), (1, 1, 0), (1, 1, 1)]
    assert vcpu.requests >> 39 & 1


def test_no_page_goes_while_a_vcpu_is_in_the_guest(kernel: str) -> None:
    """It is kicked, and waited for: only then nobody uses an obsolete root any more."""
    scene = guest(kernel, MmuKind.TDP)
    scene.cpu.read(0x5000)
    scene.cpu.vcpu.mode = VcpuMode.IN_GUEST_MODE
    kvm = scene.vm.kvm
    with kvm.slots_lock, pytest.raises(WouldWaitForEver, match="kicked"):
        finish(kvm_mmu_zap_all_fast(kvm))
    assert len(structs(scene.vm)) == 4


def test_everything_becomes_unusable_under_slots_lock(mmu: MmuKind) -> None:
    """And whoever has mmu_lock is waited for."""
    kvm = guest("6.12", mmu).vm.kvm
    with pytest.raises(LockNotHeld, match="slots_lock"):
        finish(kvm_mmu_zap_all_fast(kvm))
    with kvm.slots_lock, somebody.has(kvm.mmu_lock.write), pytest.raises(WouldWaitForEver, match="mmu_lock"):
        finish(kvm_mmu_zap_all_fast(kvm))


def test_who_waits_for_changes_to_be_over_may_sleep() -> None:
    """Also where there is none: a spinlock must not be held."""
    kvm = VirtualMachine().kvm
    finish(wait_for_invalidations(kvm))
    with kvm.mmu_lock.write, pytest.raises(SleepInAtomicContext, match="changes of the host's mappings"):
        finish(wait_for_invalidations(kvm))
