"""What is done to the sptes of a slot, or of part of it, by way of the reverse map."""

from collections.abc import Callable

import pytest

from conformance.looking import backing, structs
from conformance.scenes import GIB, MIB, PAGE, USED, Scene, guest
from mmu_model.hardware import Gfn, Pfn
from mmu_model.kvm.dirty_log import kvm_vm_ioctl_get_dirty_log
from mmu_model.kvm.locks import LockNotHeld
from mmu_model.kvm.memory_region import set_memory_region_flags
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES, KvmMemorySlot
from mmu_model.kvm.process import HostMapping
from mmu_model.kvm.rmap import pte_list
from mmu_model.kvm.spte import is_last_spte, is_shadow_present_pte, is_writable_pte, spte_to_pfn
from mmu_model.kvm.task import finish
from mmu_model.kvm.vm import Kvm, TdpFormat
from mmu_model.shadow.notifier import kvm_rmap_age_gfn_range, kvm_set_spte_gfn, kvm_unmap_gfn_range
from mmu_model.shadow.slot import (
    kvm_mmu_slot_remove_write_access,
    kvm_mmu_write_protect_gfns,
    kvm_rmap_zap_collapsible_sptes,
)
from mmu_model.snapshot import MmuKind


@pytest.fixture
def kernel() -> str:
    """The newest: none of this differs between kernels."""
    return "6.12"


def slots_of(scene: Scene) -> list[KvmMemorySlot]:
    """Three slots of four pages side by side from 1 GiB on, all of which the guest has written to."""
    slots = [scene.vm.add_memory(GIB + number * 4 * PAGE, 4 * PAGE) for number in range(3)]
    for page in range(GIB, GIB + 12 * PAGE, PAGE):
        scene.cpu.write(page, 1)
    return slots


def leafs(scene: Scene) -> dict[int, int]:
    """The leaf sptes of direct pages, by frame."""
    return {
        sp.gfn + (index << 9 * (sp.role.level - 1)): spte
        for sp in structs(scene.vm)
        for index, spte in enumerate(scene.vm.host.words(sp.spt))
        if is_shadow_present_pte(spte) and is_last_spte(spte, sp.role.level) and sp.role.direct
    }


FIRST = GIB >> 12
Work = Callable[[Kvm, KvmMemorySlot], object]


@pytest.mark.parametrize(
    ("work", "concerned"),
    [
        (kvm_mmu_slot_remove_write_access, range(4, 8)),
        (lambda kvm, slot: kvm_mmu_write_protect_gfns(kvm, slot, [Gfn(FIRST + 4), Gfn(FIRST + 6)]), [4, 6]),
        (lambda kvm, slot: kvm_unmap_gfn_range(kvm, slot, Gfn(FIRST + 5), Gfn(FIRST + 7)), [5, 6]),
        (
            lambda kvm, slot: kvm_rmap_age_gfn_range(
                kvm, slot, Gfn(FIRST + 5), Gfn(FIRST + 7), test_only=False
            ),
            [5, 6],
        ),
        (
            lambda kvm, slot: finish(
                kvm_set_spte_gfn(kvm, slot, Gfn(FIRST + 5), HostMapping(Pfn(0x123456), 1, writable=True))
            ),
            [5],
        ),
        (
            lambda kvm, slot: finish(
                kvm_set_spte_gfn(kvm, slot, Gfn(FIRST + 5), HostMapping(Pfn(0x123456), 1, writable=False))
            ),
            [5],
        ),
    ],
    ids=["protects all", "protects some", "takes away", "makes old", "replaces", "replaces for reading"],
)
def test_only_the_frames_that_it_is_about_change(kernel: str, work: Work, concerned: list[int]) -> None:
    scene = guest(kernel, MmuKind.DIRECT)
    slot = slots_of(scene)[1]
    before = leafs(scene)
    with scene.vm.kvm.mmu_lock.write:
        work(scene.vm.kvm, slot)

    after = leafs(scene)
    changed = [gfn - FIRST for gfn in before if after.get(gfn) != before[gfn]]
    assert changed == list(concerned)


@pytest.mark.parametrize(
    "work",
    [
        lambda kvm, slot: kvm_unmap_gfn_range(kvm, slot, Gfn(FIRST), Gfn(FIRST + 1)),
        lambda kvm, slot: kvm_rmap_age_gfn_range(kvm, slot, Gfn(FIRST), Gfn(FIRST + 1), test_only=True),
        lambda kvm, slot: finish(
            kvm_set_spte_gfn(kvm, slot, Gfn(FIRST), HostMapping(Pfn(9), 1, writable=True))
        ),
    ],
    ids=["takes away", "asks", "replaces"],
)
def test_all_of_it_needs_mmu_lock_and_says_whether_there_was_something(work: Work) -> None:
    scene = guest("6.12", MmuKind.DIRECT)
    slot = scene.vm.add_memory(GIB, MIB)
    kvm = scene.vm.kvm
    with pytest.raises(LockNotHeld), kvm.mmu_lock.read:
        work(kvm, slot)
    with kvm.mmu_lock.write:
        nothing = work(kvm, slot)
    scene.cpu.write(GIB, 1)
    with kvm.mmu_lock.write:
        something = work(kvm, slot)

    assert (nothing, something) == (False, True)


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("offset", [0, 1, 511])
def test_a_large_page_is_concerned_by_each_of_its_frames(kernel: str, level: int, offset: int) -> None:
    """And by none beside it."""
    scene = guest(kernel, MmuKind.DIRECT)
    slot = scene.vm.add_memory(GIB, 2 * GIB, level=level)
    scene.cpu.write(GIB, 1)
    kvm, span = scene.vm.kvm, 512 ** (level - 1)
    with kvm.mmu_lock.write:
        beside = kvm_unmap_gfn_range(kvm, slot, Gfn(FIRST + span + 8), Gfn(FIRST + span + 9))
        assert len(leafs(scene)) >= 1
        gone = kvm_unmap_gfn_range(
            kvm, slot, Gfn(FIRST + offset * span // 512), Gfn(FIRST + offset * span // 512 + 1)
        )

    assert (beside, gone) == (False, True)
    assert FIRST not in leafs(scene)


@pytest.mark.parametrize("tdp_format", TdpFormat)
@pytest.mark.parametrize("test_only", [False, True])
def test_use_is_asked_for_frame_by_frame(kernel: str, tdp_format: TdpFormat, test_only: bool) -> None:
    """And forgotten, unless that was all; what was written the host knows then."""
    scene = guest(kernel, MmuKind.DIRECT, tdp_format=tdp_format)
    slot = scene.vm.add_memory(GIB, MIB)
    for page in (GIB, GIB + 16 * PAGE):
        scene.cpu.write(page, 1)
    kvm = scene.vm.kvm
    with kvm.mmu_lock.write:
        ask = [
            kvm_rmap_age_gfn_range(kvm, slot, Gfn(FIRST + first), Gfn(FIRST + first + 1), test_only=test_only)
            for first in (0, 0, 8, 16)
        ]

    assert ask == [True, test_only, False, True]
    without_flags = tdp_format is TdpFormat.EPT_WITHOUT_AD
    assert (backing(scene.vm, FIRST) in scene.vm.host.dirty) == (without_flags and not test_only)
    assert scene.reads(GIB) == 1


def test_an_spte_for_another_frame_permits_no_writes(kernel: str) -> None:
    """And was not used yet; its place in the reverse map is the same."""
    scene = guest(kernel, MmuKind.DIRECT)
    slot = scene.vm.add_memory(GIB, MIB)
    scene.cpu.write(GIB, 1)
    kvm = scene.vm.kvm
    with kvm.mmu_lock.write:
        steps = kvm_set_spte_gfn(kvm, slot, Gfn(FIRST), HostMapping(Pfn(0x123456), 1, writable=False))
        assert next(steps) == "has cleared the spte"
        assert FIRST not in leafs(scene)
        finish(steps)

    spte = leafs(scene)[FIRST]
    assert (spte_to_pfn(spte), is_writable_pte(spte), kvm.masks.is_accessed(spte)) == (0x123456, False, False)
    with kvm.mmu_lock.write:
        assert kvm_unmap_gfn_range(kvm, slot, Gfn(FIRST), Gfn(FIRST + 1))
    assert FIRST not in leafs(scene)


@pytest.mark.parametrize("x86_64", [True, False])
def test_writes_are_logged_again_after_each_reading_of_the_log(kernel: str, x86_64: bool) -> None:
    """Whether the host stores an spte as one or in two halves."""
    scene = guest(kernel, MmuKind.DIRECT, maxphyaddr=36 if not x86_64 else 46, x86_64=x86_64)
    slot = scene.vm.add_memory(GIB, MIB)
    for number in range(3):
        scene.cpu.write(GIB + number * PAGE, 1)
    set_memory_region_flags(scene.vm.kvm, slot, KVM_MEM_LOG_DIRTY_PAGES)
    logs = []
    for written in ([0, 2], [2], []):
        for number in written:
            scene.cpu.write(GIB + number * PAGE, 2)
        logs.append(sorted(gfn - FIRST for gfn in kvm_vm_ioctl_get_dirty_log(scene.vm.kvm, slot)))

    assert logs == [[0, 2], [2], []]
    assert [scene.reads(GIB + number * PAGE) for number in range(3)] == [2, 1, 2]


def test_an_spte_that_may_be_written_to_again_needs_no_flush(kernel: str) -> None:
    """No TLB permits more than it does; and it went on being dirty."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={GIB: GIB}, mapped_flags=USED)
    slot = scene.vm.add_memory(GIB, MIB, flags=KVM_MEM_LOG_DIRTY_PAGES)
    scene.cpu.write(GIB, 1)
    kvm_vm_ioctl_get_dirty_log(scene.vm.kvm, slot)
    flushes = scene.vm.kvm.stat["remote_tlb_flush"]

    scene.cpu.write(GIB, 2)

    assert slot.dirty_bitmap == {FIRST}
    assert scene.vm.kvm.stat["remote_tlb_flush"] == flushes


@pytest.mark.parametrize("level", [1, 2, 3])
def test_pages_of_every_size_lose_w(kernel: str, level: int) -> None:
    scene = guest(kernel, MmuKind.DIRECT)
    slot = scene.vm.add_memory(GIB, GIB, level=level)
    scene.cpu.write(GIB, 1)
    with scene.vm.kvm.mmu_lock.write:
        kvm_mmu_slot_remove_write_access(scene.vm.kvm, slot)

    assert not is_writable_pte(leafs(scene)[FIRST])


def test_what_cannot_be_written_to_is_mapped_in_advance_though_writes_are_logged(kernel: str) -> None:
    """The guest's own entries deny it."""
    mapped = {n * PAGE: GIB + n * PAGE for n in range(8)}
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped=mapped, mapped_flags=USED & ~2)
    slot = scene.vm.add_memory(GIB, MIB, flags=KVM_MEM_LOG_DIRTY_PAGES)

    scene.reads(3 * PAGE)

    assert [len(pte_list(scene.vm.host, slot.gfn_to_rmap(FIRST + n, 1))) for n in range(8)] == [1] * 8
    assert slot.dirty_bitmap == set()


@pytest.mark.parametrize("level", [1, 2, 3])
def test_small_pages_go_where_larger_ones_could_be(kernel: str, level: int) -> None:
    """By the host's mapping; what is not of the slot stays, and what is large enough already."""
    scene = guest(kernel, MmuKind.DIRECT)
    slot = scene.vm.add_memory(GIB, 2 * GIB, level=level)
    scene.cpu.write(0x5000, 1)
    slot.dirty_bitmap = set()
    scene.cpu.write(GIB, 1)
    scene.cpu.write(GIB + 2 * MIB, 2)
    slot.dirty_bitmap = None
    scene.cpu.write(2 * GIB, 3)
    kvm = scene.vm.kvm
    flushes = kvm.stat["remote_tlb_flush"]
    others = {gfn for gfn in leafs(scene) if gfn < FIRST}

    with kvm.mmu_lock.write:
        kvm_rmap_zap_collapsible_sptes(kvm, slot)
        kvm_rmap_zap_collapsible_sptes(kvm, slot)

    mine = {gfn for gfn in leafs(scene) if gfn >= FIRST}
    assert {gfn for gfn in (FIRST, FIRST + 512) if gfn in mine} == (
        set() if level > 1 else {FIRST, FIRST + 512}
    )
    assert 2 * GIB >> 12 in mine
    assert {gfn for gfn in leafs(scene) if gfn < FIRST} == others
    assert kvm.stat["remote_tlb_flush"] - flushes == (level > 1)
    assert [scene.reads(address) for address in (GIB, GIB + 2 * MIB, 2 * GIB)] == [1, 2, 3]


def test_sptes_of_the_guests_tables_stay_small(kernel: str) -> None:
    """They are as small as what the guest maps, whatever the host has."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000}, mapped_flags=USED, host_level=2)
    scene.reads(0x5000)
    (slot,) = scene.vm.kvm.memslots[0]
    before = scene.vm.snapshot()
    with scene.vm.kvm.mmu_lock.write:
        kvm_rmap_zap_collapsible_sptes(scene.vm.kvm, slot)

    assert scene.vm.snapshot() == before
