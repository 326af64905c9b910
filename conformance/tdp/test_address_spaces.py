"""What is done to a slot is done in the roots of its address space, and in invalid ones where it matters."""

from collections.abc import Callable

import pytest

from conformance.looking import structs
from conformance.scenes import MIB, PAGE, Scene, guest
from conformance.tdp.touched import KERNEL
from mmu_model.hardware import Gfn, Pfn
from mmu_model.kvm.locks import Hold, LockNotHeld
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.kvm.process import HostMapping
from mmu_model.kvm.task import Steps, finish
from mmu_model.kvm.vm import Kvm
from mmu_model.snapshot import MmuKind
from mmu_model.tdp.huge_pages import kvm_tdp_mmu_try_split_huge_pages, kvm_tdp_mmu_zap_collapsible_sptes
from mmu_model.tdp.notifier import (
    kvm_tdp_mmu_age_gfn_range,
    kvm_tdp_mmu_set_spte_gfn,
    kvm_tdp_mmu_test_age_gfn,
    kvm_tdp_mmu_unmap_gfn_range,
)
from mmu_model.tdp.protect import (
    kvm_tdp_mmu_clear_dirty_pt_masked,
    kvm_tdp_mmu_clear_dirty_slot,
    kvm_tdp_mmu_write_protect_gfn,
    kvm_tdp_mmu_wrprot_slot,
)

Work = Callable[[Kvm, KvmMemorySlot], Steps[object]]


def another(kvm: Kvm, slot: KvmMemorySlot) -> HostMapping:
    """What the host could put in the place of the frame that the guest uses."""
    mapping = kvm.process.mapping(slot.hva(first(slot)))
    assert mapping is not None
    return HostMapping(Pfn(mapping.pfn + 1), 1, writable=False)


def first(slot: KvmMemorySlot) -> Gfn:
    """The frame of the slot that the guest uses."""
    return Gfn(slot.base_gfn + 1)


WORKS: dict[str, tuple[str, bool, Work]] = {
    "write-protects": ("read", False, lambda kvm, slot: kvm_tdp_mmu_wrprot_slot(kvm, slot)),
    "cleans": ("read", False, lambda kvm, slot: kvm_tdp_mmu_clear_dirty_slot(kvm, slot)),
    "protects a table": (
        "write",
        False,
        lambda kvm, slot: kvm_tdp_mmu_write_protect_gfn(kvm, slot, first(slot)),
    ),
    "has the log read": (
        "write",
        False,
        lambda kvm, slot: kvm_tdp_mmu_clear_dirty_pt_masked(kvm, slot, [first(slot)], wrprot=True),
    ),
    "makes old": (
        "write",
        True,
        lambda kvm, slot: kvm_tdp_mmu_age_gfn_range(kvm, slot, first(slot), Gfn(first(slot) + 1)),
    ),
    "takes away": (
        "write",
        True,
        lambda kvm, slot: kvm_tdp_mmu_unmap_gfn_range(kvm, slot, first(slot), Gfn(first(slot) + 1)),
    ),
    "replaces": (
        "write",
        True,
        lambda kvm, slot: kvm_tdp_mmu_set_spte_gfn(kvm, slot, first(slot), another(kvm, slot)),
    ),
}
"""How mmu_lock is held; whether invalid roots are concerned; what is done."""


def two_spaces(level: int = 1) -> tuple[Scene, KvmMemorySlot, KvmMemorySlot]:
    """A guest that wrote to its memory, and in SMM to the memory of that at the same addresses."""
    scene = guest(KERNEL, MmuKind.TDP)
    outside = scene.vm.add_memory(256 * MIB, 4 * MIB, level=level)
    inside = scene.vm.add_memory(256 * MIB, 4 * MIB, as_id=1, level=level)
    scene.cpu.write(256 * MIB + PAGE, 1)
    scene.cpu.enter_smm()
    scene.cpu.write(256 * MIB + PAGE, 2)
    scene.cpu.rsm()
    return scene, outside, inside


def spte(scene: Scene, smm: int, level: int = 1) -> int:
    """The spte of that page in the tables of an address space."""
    gfn = 256 * MIB // PAGE
    (sp,) = (
        sp
        for sp in structs(scene.vm)
        if sp.role.level == level and sp.role.smm == smm and sp.gfn == gfn // 512**level * 512**level
    )
    return scene.vm.host.read(sp.sptep(1 if level == 1 else gfn // 512 % 512))


@pytest.mark.parametrize("what", WORKS)
@pytest.mark.parametrize("smm", [0, 1])
def test_tables_of_the_other_address_space_are_left_alone(what: str, smm: int) -> None:
    scene, *slots = two_spaces()
    kvm, (lock, _, work) = scene.vm.kvm, WORKS[what]
    before = [spte(scene, as_id) for as_id in (0, 1)]

    with getattr(kvm.mmu_lock, lock):
        finish(work(kvm, slots[smm]))

    changed = [spte(scene, as_id) != before[as_id] for as_id in (0, 1)]
    assert changed == [not smm, bool(smm)]


@pytest.mark.parametrize("what", WORKS)
def test_which_work_is_done_in_invalid_roots(what: str) -> None:
    """What the host is to be told, or is told: of pages that are still mapped there. Writes that are to be noticed
    are none: no vCPU makes any."""
    scene, slot, _ = two_spaces()
    kvm, (lock, in_invalid, work) = scene.vm.kvm, WORKS[what]
    before = spte(scene, 0)
    (root,) = (root for root in kvm.tdp_mmu_roots if not root.role.smm)
    root.role = root.role.replace(invalid=1)

    with getattr(kvm.mmu_lock, lock):
        finish(work(kvm, slot))

    assert (spte(scene, 0) != before) == in_invalid


@pytest.mark.parametrize("what", WORKS)
def test_all_of_it_needs_mmu_lock(what: str) -> None:
    """Held for write if it says so, else for read; even where there is nothing to do."""
    scene, slot, _ = two_spaces()
    empty = scene.vm.add_memory(300 * MIB, 4 * MIB)
    kvm, (lock, _, work) = scene.vm.kvm, WORKS[what]
    other: Hold = kvm.mmu_lock.read if lock == "write" else kvm.mmu_lock.write
    before = spte(scene, 0)

    with other, pytest.raises(LockNotHeld):
        finish(work(kvm, slot))
    with pytest.raises(LockNotHeld):
        finish(work(kvm, slot))
    with pytest.raises(LockNotHeld):
        finish(work(kvm, empty))

    assert spte(scene, 0) == before


@pytest.mark.parametrize("smm", [0, 1])
def test_the_host_asks_for_each_address_space(smm: int) -> None:
    scene, *slots = two_spaces()
    kvm = scene.vm.kvm
    with kvm.mmu_lock.write:
        finish(kvm_tdp_mmu_age_gfn_range(kvm, slots[smm], first(slots[smm]), Gfn(first(slots[smm]) + 1)))
        young = [kvm_tdp_mmu_test_age_gfn(kvm, slot, first(slot), Gfn(first(slot) + 1)) for slot in slots]

    assert young == [bool(smm), not smm]


@pytest.mark.parametrize("work", [kvm_tdp_mmu_try_split_huge_pages, kvm_tdp_mmu_zap_collapsible_sptes])
@pytest.mark.parametrize("smm", [0, 1])
def test_large_pages_become_small_and_small_ones_large_in_one_address_space(work: Work, smm: int) -> None:
    scene, *slots = two_spaces(2)
    kvm = scene.vm.kvm
    if work is kvm_tdp_mmu_zap_collapsible_sptes:
        with kvm.mmu_lock.read:
            for slot in slots:
                finish(kvm_tdp_mmu_try_split_huge_pages(kvm, slot))
    with pytest.raises(LockNotHeld), kvm.mmu_lock.write:
        finish(work(kvm, slots[smm]))
    before = [spte(scene, as_id, 2) for as_id in (0, 1)]

    with kvm.mmu_lock.read:
        finish(work(kvm, slots[smm]))

    assert [spte(scene, as_id, 2) != before[as_id] for as_id in (0, 1)] == [not smm, bool(smm)]
