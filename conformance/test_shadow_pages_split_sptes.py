"""clear_spte_count: sptes on 32-bit hosts, stored in two halves, and who reads them without mmu_lock."""

import pytest

from conformance.looking import structs
from conformance.scenes import GIB, MIB, PAGE, guest
from conformance.shadow_races import (
    TOUCHED,
    leaf,
    moved,
    touched_page,
    walk_against_replacement,
    walk_against_zap,
)
from mmu_model.hardware import Gfn
from mmu_model.kvm import split_spte
from mmu_model.kvm.split_spte import read_half
from mmu_model.kvm.spte import PT_WRITABLE_MASK
from mmu_model.kvm.task import Steps, finish
from mmu_model.kvm.types import Kva, Sptep
from mmu_model.schedule import explore
from mmu_model.snapshot import MmuKind

ONLY = "clear_spte_count/only-on-32-bit-hosts"
RETRIES = "clear_spte_count/reader-retries"


@pytest.mark.spec(ONLY)
def test_pages_of_a_32_bit_host_count_sptes_that_go(kernel: str) -> None:
    """The host takes a page away and the guest has it again: one spte has gone."""
    scene = touched_page(kernel)
    sp = next(sp for sp in structs(scene.vm) if sp.spt == leaf(scene.vm) & -PAGE)
    before = sp.clear_spte_count
    (slot,) = scene.vm.kvm.memslots[0]
    scene.vm.process.madvise_dontneed(slot.hva(Gfn(TOUCHED >> 12)), 1)
    after = sp.clear_spte_count
    scene.cpu.read(TOUCHED)

    assert (before, after, sp.clear_spte_count) == (0, 1, 1)


@pytest.mark.spec(ONLY)
def test_pages_of_a_64_bit_host_have_no_such_member(kernel: str, mmu: MmuKind) -> None:
    """Edge: whatever the MMU."""
    scene = guest(kernel, mmu, memory={GIB: MIB})
    scene.cpu.read(TOUCHED)
    scene.vm.remove_memory(list(scene.vm.kvm.memslots[0])[1])
    scene.cpu.read(TOUCHED)

    assert [sp for sp in structs(scene.vm) if hasattr(sp, "clear_spte_count")] == []


@pytest.mark.spec(ONLY)
def test_a_32_bit_host_cannot_store_an_spte_as_one(kernel: str) -> None:
    """An spte that appears gets its high half first, for the low one makes it present; one that goes loses the low
    half first. In between half of it is there."""
    scene = touched_page(kernel)
    host, sptep = scene.vm.host, leaf(scene.vm)
    spte = host.read(sptep)
    halves = []

    for steps in (split_spte.update_clear_spte(host, sptep, 0), split_spte.set_spte(host, sptep, spte)):
        for _ in steps:
            halves.append((read_half(host, sptep + 4), read_half(host, sptep)))

    high = spte >> 32
    assert high and spte & 0xFFFF_FFFF
    assert halves == [(high, 0), (0, 0), (high, 0)]
    assert host.read(sptep) == spte


@pytest.mark.spec(ONLY)
def test_what_does_not_go_is_not_counted(kernel: str) -> None:
    """Edge: an spte that only loses a permission stays present, and maps the same frame."""
    scene = touched_page(kernel)
    host, sptep = scene.vm.host, leaf(scene.vm)
    spte = host.read(sptep)
    (sp,) = (sp for sp in structs(scene.vm) if sp.spt == sptep & -PAGE)

    finish(split_spte.update_clear_spte(host, sptep, spte & ~PT_WRITABLE_MASK))

    assert host.read(sptep) == spte & ~PT_WRITABLE_MASK
    assert sp.clear_spte_count == 0


@pytest.mark.spec(ONLY)
@pytest.mark.spec(RETRIES)
def test_nobody_sees_half_an_spte_in_any_order(kernel: str) -> None:
    """An spte is made to map a frame 4 GiB further on. Neither the processor, at any moment, nor a vCPU that reads
    without mmu_lock sees the low half of one with the high half of the other."""
    explored = explore(lambda: walk_against_replacement(kernel))

    assert explored.schedules > 1000


@pytest.mark.spec(RETRIES)
def test_a_reader_begins_again_when_an_spte_went_meanwhile(kernel: str) -> None:
    """The reader has the low half; then the spte goes and comes back for another frame, with the same low half.
    It returns the new one, after a second try."""
    scene = touched_page(kernel)
    host, sptep = scene.vm.host, leaf(scene.vm)
    new = moved(scene.vm, host.read(sptep))
    reader = split_spte.get_spte_lockless(host, sptep)
    stops = [next(reader), next(reader)]
    finish(split_spte.update_clear_spte(host, sptep, 0))
    finish(split_spte.set_spte(host, sptep, new))

    into: list[int] = []

    def rest() -> Steps[None]:
        into.append((yield from reader))

    stops += rest()

    assert into == [new]
    assert stops.count("has read the low half") == 2


@pytest.mark.spec(RETRIES)
def test_a_reader_whom_nobody_disturbs_reads_once(kernel: str) -> None:
    """Edge: sptes elsewhere that only lose a permission do not disturb it either."""
    scene = touched_page(kernel)
    host, sptep = scene.vm.host, leaf(scene.vm)
    reader = split_spte.get_spte_lockless(host, sptep)
    stops = [next(reader)]
    neighbour = Sptep(Kva(sptep ^ 8))
    finish(split_spte.update_clear_spte(host, neighbour, host.read(neighbour) & ~PT_WRITABLE_MASK))
    stops += reader

    assert stops.count("has read the low half") == 1


@pytest.mark.spec(RETRIES)
def test_what_a_reader_walks_is_not_freed_under_it(kernel: str) -> None:
    """Who reads without the lock keeps zapped pages from being freed until it is through: the flush waits."""
    explored = explore(lambda: walk_against_zap(kernel))

    assert explored.schedules > 10
