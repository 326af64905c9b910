"""Whoever goes through the TDP MMU's tables lets others have mmu_lock, and goes on from where it was."""

from collections.abc import Callable

import pytest

from conformance.looking import structs
from conformance.races.truths import leafs, whole
from conformance.scenes import MIB, PAGE, Scene, guest
from conformance.tdp.touched import KERNEL, the_slot, touched_guest
from mmu_model.hardware import Gfn
from mmu_model.kvm.dirty_log import kvm_mmu_slot_apply_flags
from mmu_model.kvm.locks import Hold
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES, KvmMemorySlot
from mmu_model.kvm.spte import is_writable_pte
from mmu_model.kvm.task import Steps, finish
from mmu_model.kvm.vm import Kvm
from mmu_model.schedule import Race, blocked_steps
from mmu_model.snapshot import MmuKind
from mmu_model.tdp.huge_pages import kvm_tdp_mmu_try_split_huge_pages, kvm_tdp_mmu_zap_collapsible_sptes
from mmu_model.tdp.protect import kvm_tdp_mmu_wrprot_slot
from mmu_model.tdp.root import for_each_root_of
from mmu_model.tdp.zap import (
    kvm_tdp_mmu_invalidate_all_roots,
    kvm_tdp_mmu_zap_invalidated_roots,
    kvm_tdp_mmu_zap_sp,
    tdp_mmu_zap_leafs,
)

PAGES = 6


def dense_guest(level: int = 1, step: int = PAGE) -> Scene:
    """A guest that wrote to so many pages in a row, which the host maps with pages of that level."""
    scene = guest(KERNEL, MmuKind.TDP, host_level=level)
    for number in range(PAGES):
        scene.cpu.write(number * step, number)
    return scene


def under(lock: Hold, work: Steps[object]) -> Steps[None]:
    """The work, with the lock held."""
    yield from lock.wait()
    with lock:
        yield from work


def looks(kvm: Kvm, seen: list[int], count: Callable[[], int]) -> Steps[None]:
    """Somebody who needs mmu_lock for write; what he finds."""
    yield "begins"
    yield from kvm.mmu_lock.write.wait()
    with kvm.mmu_lock.write:
        seen.append(count())
        yield "has the lock"


def present(scene: Scene) -> int:
    """How many leafs there are."""
    return len(list(leafs(scene.vm)))


def writable(scene: Scene) -> int:
    """How many of them may be written to."""
    return sum(is_writable_pte(spte) for _, _, spte in leafs(scene.vm))


def splits(kvm: Kvm, slot: KvmMemorySlot) -> Steps[object]:
    """Large pages become small ones."""
    return kvm_tdp_mmu_try_split_huge_pages(kvm, slot)


def protects(kvm: Kvm, slot: KvmMemorySlot) -> Steps[object]:
    """Nothing may be written to any more."""
    return kvm_tdp_mmu_wrprot_slot(kvm, slot)


@pytest.mark.parametrize(
    ("begin", "work", "count", "at_begin", "at_end"),
    [
        (lambda: dense_guest(), protects, writable, PAGES, 0),
        (lambda: dense_guest(2, 2 * MIB), splits, present, PAGES, 512 * PAGES),
    ],
    ids=["protects", "splits"],
)
def test_who_waits_has_the_lock_after_a_few_entries(
    begin: Callable[[], Scene],
    work: Callable[[Kvm, KvmMemorySlot], Steps[object]],
    count: Callable[[Scene], int],
    at_begin: int,
    at_end: int,
) -> None:
    """Part of it is done by then; afterwards all is done, once."""
    scene, seen = begin(), list[int]()
    kvm = scene.vm.kvm
    assert count(scene) == at_begin

    actors = {
        "works": under(kvm.mmu_lock.read, work(kvm, the_slot(scene))),
        "looks": looks(kvm, seen, lambda: count(scene)),
    }
    waited = blocked_steps(Race(actors))

    assert min(at_begin, at_end) < seen[0] < max(at_begin, at_end)
    assert waited["looks"] <= 6
    assert count(scene) == at_end
    whole(scene.vm)
    assert [scene.reads(address) for address in (0, PAGE)] == [0, 1 if at_end < at_begin else 0]


def test_tables_in_whose_place_a_large_page_could_be_go_little_by_little() -> None:
    """Logging made pages small; it is over."""
    scene, seen = guest(KERNEL, MmuKind.TDP, host_level=2), list[int]()
    slot, kvm = the_slot(scene), scene.vm.kvm
    slot.dirty_bitmap = set()
    for number in range(PAGES):
        scene.cpu.write(number * 2 * MIB, number)
    slot.dirty_bitmap = None
    assert (present(scene), kvm.stat["pages_4k"]) == (PAGES, PAGES)

    actors = {
        "works": under(kvm.mmu_lock.read, kvm_tdp_mmu_zap_collapsible_sptes(kvm, slot)),
        "looks": looks(kvm, seen, lambda: present(scene)),
    }
    blocked_steps(Race(actors))

    assert 0 < seen[0] < PAGES
    assert present(scene) == 0
    assert [scene.reads(number * 2 * MIB) for number in range(PAGES)] == list(range(PAGES))
    assert kvm.stat["pages_2m"] == PAGES
    whole(scene.vm)


def test_roots_are_taken_apart_little_by_little() -> None:
    """By small pages first: a table goes when it is nearly empty."""
    scene, seen = dense_guest(), list[int]()
    kvm = scene.vm.kvm
    with kvm.mmu_lock.write:
        kvm_tdp_mmu_invalidate_all_roots(kvm)

    actors = {
        "works": kvm_tdp_mmu_zap_invalidated_roots(kvm),
        "looks": looks(kvm, seen, lambda: present(scene)),
    }
    blocked_steps(Race(actors))

    assert 0 < seen[0] < PAGES
    assert [(sp.role.level, sp.tdp_mmu_root_count) for sp in structs(scene.vm)] == [(4, 1)]
    whole(scene.vm)
    assert scene.reads(PAGE) == 1
    whole(scene.vm)


def zaps(scene: Scene, start: int, end: int, flushes: list[bool]) -> Steps[None]:
    """Leafs of these frames go; notes whether a flush is still wanted at the end."""
    (root,) = scene.vm.kvm.tdp_mmu_roots
    flushes.append((yield from tdp_mmu_zap_leafs(scene.vm.kvm, root, Gfn(start), Gfn(end))))


@pytest.mark.parametrize("all_of_it", [False, True])
def test_what_was_zapped_is_flushed_before_the_lock_is_given_away(all_of_it: bool) -> None:
    """Afterwards only what was zapped since is to be flushed: nothing, if somebody took the rest meanwhile."""
    scene, flushes = dense_guest(), list[bool]()
    kvm = scene.vm.kvm
    (low,) = (sp for sp in structs(scene.vm) if sp.role.level == 1)

    def other() -> Steps[None]:
        yield "begins"
        yield from kvm.mmu_lock.write.wait()
        with kvm.mmu_lock.write:
            yield "has the lock"
            if all_of_it:
                finish(kvm_tdp_mmu_zap_sp(kvm, low))

    first = under(kvm.mmu_lock.write, zaps(scene, 0, PAGES, flushes))
    before = kvm.stat["remote_tlb_flush"]
    blocked_steps(Race({"first": first, "other": other()}))

    assert flushes == [not all_of_it]
    assert kvm.stat["remote_tlb_flush"] - before == 1
    assert present(scene) == 0


def test_nobody_uses_what_an_invalid_root_maps() -> None:
    """Its leafs go, too, for the host wants the memory; but there is nothing to flush: that was done before."""
    scene, flushes = dense_guest(), list[bool]()
    kvm = scene.vm.kvm
    with kvm.mmu_lock.write:
        kvm_tdp_mmu_invalidate_all_roots(kvm)
        for _ in zaps(scene, 0, PAGES, flushes):
            pass

    assert flushes == [False]
    assert present(scene) == 0


@pytest.mark.parametrize("only_valid", [False, True])
def test_all_roots_of_an_address_space_are_gone_through(only_valid: bool) -> None:
    """Those of SMM are not of the memory outside. References that were taken are given back."""
    scene = touched_guest()
    kvm = scene.vm.kvm
    scene.vm.add_memory(0, MIB, as_id=1)
    scene.cpu.read(PAGE)
    scene.cpu.enter_smm()
    scene.cpu.read(PAGE)
    scene.cpu.rsm()
    (outside,) = (root for root in kvm.tdp_mmu_roots if not root.role.smm)
    counts = {root: root.tdp_mmu_root_count for root in kvm.tdp_mmu_roots}
    outside.role = outside.role.replace(invalid=1)
    worked = []

    def work(root: object) -> Steps[bool]:
        yield "works"
        worked.append(root)
        return True

    with kvm.mmu_lock.read:
        steps = for_each_root_of(kvm, the_slot(scene), work, only_valid=only_valid)
        try:
            while True:
                next(steps)
        except StopIteration as end:
            found = end.value

    assert (found, worked) == ((False, []) if only_valid else (True, [outside]))
    assert {root: root.tdp_mmu_root_count for root in kvm.tdp_mmu_roots} == counts


def test_logging_begins_and_ends_with_the_lock_free_for_others() -> None:
    """The whole of it, as the process asks for it."""
    scene = dense_guest(2, 2 * MIB)
    slot, kvm = the_slot(scene), scene.vm.kvm
    slot.flags, slot.dirty_bitmap = KVM_MEM_LOG_DIRTY_PAGES, set()
    for _ in kvm_mmu_slot_apply_flags(kvm, slot):
        pass
    logged = present(scene), writable(scene)
    slot.flags, slot.dirty_bitmap = 0, None
    for _ in kvm_mmu_slot_apply_flags(kvm, slot):
        pass

    assert logged == (512 * PAGES, 0)
    assert present(scene) == 0
    whole(scene.vm)
