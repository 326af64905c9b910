"""Section "Large pages": what is counted against a large page, in which arrays."""

import pytest

from conformance.large_pages import SIZES, leaf_for, level_for, slot_at
from conformance.looking import structs
from conformance.scenes import GIB, MIB, USED, editing_guest, guest
from mmu_model.kvm.dirty_log import kvm_vm_ioctl_get_dirty_log
from mmu_model.kvm.memory_region import add_memory_region
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES
from mmu_model.kvm.types import Hva
from mmu_model.machine import VirtualMachine
from mmu_model.snapshot import MmuKind

COUNTS = "large-pages/disallow_lpage/write-protection-increments"


@pytest.mark.spec("large-pages/disallow_lpage/arrays-per-slot-and-size")
def test_reasons_are_counted_by_slot_and_size(kernel: str) -> None:
    """A table in one slot counts there, once for 2 MiB and once for 1 GiB, and in no other slot."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000}, memory={GIB: GIB})
    before = [slot.disallow_lpage for slot in scene.vm.snapshot().memslots]

    scene.reads(0x5000)

    first, second = (slot.disallow_lpage for slot in scene.vm.snapshot().memslots)
    tables = len(scene.frames)
    assert second == before[1] == ()
    assert set(first) - set(before[0]) == {(2, 16, tables), (3, 0, tables + 1)}


@pytest.mark.spec(COUNTS)
def test_a_shadowed_table_is_a_reason(kernel: str) -> None:
    """As long as it is shadowed; and while it is, the page around it is mapped in parts."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000}, host_level=2, memory={GIB: MIB})
    scene.map({2 * GIB: 32 * MIB}, level=2, flags=USED)
    slot = slot_at(scene, 32 * MIB)
    assert slot.largepage_disallowed(32 * MIB >> 12, 2) == 0

    scene.reads(0x5000)
    scene.reads(2 * GIB + MIB)

    assert slot.largepage_disallowed(32 * MIB >> 12, 2) == len(scene.frames)
    assert level_for(scene, 33 * MIB) == 1
    scene.vm.remove_memory(slot_at(scene, GIB))
    assert slot.largepage_disallowed(32 * MIB >> 12, 2) == 0


@pytest.mark.spec(COUNTS)
def test_a_table_is_as_many_reasons_as_it_has_pages(kernel: str) -> None:
    """A 32-bit guest's directory has four pages that shadow it, and its table two: six reasons for two frames."""
    scene = guest(kernel, MmuKind.SHADOW, "32-bit", mapped={0x5000: 0x6000, 0x20_5000: 0x6000})

    for address in (0x5000, 0x20_5000):
        scene.reads(address)

    pages = [sp for sp in structs(scene.vm) if not sp.role.direct]
    assert (len(scene.frames), len(pages)) == (2, 6)
    assert slot_at(scene, 32 * MIB).largepage_disallowed(32 * MIB >> 12, 2) == 6


@pytest.mark.spec(COUNTS)
def test_a_table_that_may_be_written_is_a_reason_too(kernel: str) -> None:
    """Edge: a page that has become unsync is protected no more, and counts as before."""
    scene = editing_guest(kernel, {0x5000: 0x6000})
    scene.reads(0x5000)
    slot = slot_at(scene, 32 * MIB)
    assert scene.tables is not None
    table = scene.tables.entry_address(0x5000, 1) >> 12
    scene.reads(scene.window)
    before = slot.largepage_disallowed(table, 2)

    scene.edit(0x9000, 0)

    assert slot.largepage_disallowed(table, 2) == before > 0


@pytest.mark.spec(COUNTS)
def test_protection_for_logging_is_no_reason(kernel: str) -> None:
    """Edge: a page that was written, and reported, is write-protected again. That counts nowhere."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={GIB: GIB}, mapped_flags=USED)
    slot = scene.vm.add_memory(GIB, 4 * MIB, flags=KVM_MEM_LOG_DIRTY_PAGES)
    scene.cpu.write(GIB, 1)
    assert leaf_for(scene, GIB).spte.writable

    kvm_vm_ioctl_get_dirty_log(scene.vm.kvm, slot)

    assert not leaf_for(scene, GIB).spte.writable
    assert slot.largepage_disallowed(GIB >> 12, 2) == 0


@pytest.mark.spec("large-pages/disallow_lpage/unaligned-ends-inflated")
@pytest.mark.parametrize("level", [2, 3])
@pytest.mark.parametrize(
    ("start", "end", "inflated"),
    [(0, 4, []), (0, 3, [1]), (1, 4, [0]), (1, 3, [0, 1]), (1, 5, [0, 2])],
)
def test_both_ends_of_an_unaligned_slot_are_excluded(
    level: int, start: int, end: int, inflated: list[int]
) -> None:
    """In halves of a large page: where the first or the last one is not all there, it has one reason more than
    others, and keeps it when everything else is zapped."""
    vm, half = VirtualMachine(), SIZES[level] // 2
    hva = vm.process.mmap(6 * half >> 12, level)
    slot = add_memory_region(vm.kvm, 0, 4 * GIB + start * half, (end - start) * half, Hva(hva + start * half))
    extra = vm.add_memory(0, MIB)

    vm.remove_memory(extra)

    assert {
        index: count for index, count in slot.disallow_lpage[level - 2].items() if count
    } == dict.fromkeys(inflated, 1)
