"""Section "Reaction to events": what KVM write-protects, and all of it."""

import pytest

from conformance.looking import backing
from conformance.scenes import GIB, MIB, PAGE, TABLES, USED, Editor, Scene, editing_guest, guest
from mmu_model.kvm.dirty_log import kvm_vm_ioctl_get_dirty_log
from mmu_model.kvm.memory_region import set_memory_region_flags
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES, KvmMemorySlot
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind, Spte
from mmu_model.snapshot.spte import Kind

PROTECTED = "reaction-to-events/cause-protected/protected-translation"
LOGGED = "reaction-to-events/cause-dirty-logging/write-protected"
TABLE = "reaction-to-events/cause-shadowed-table/write-protected"
ALIAS = 1 << 40
"""Where the guest sees its tables by other addresses than through the window."""


def leaves(scene: Scene, first: int, last: int) -> list[Spte]:
    """The sptes that map what is behind guest frames from `first` to `last`."""
    start, end = backing(scene.vm, first), backing(scene.vm, last)
    assert start is not None and end is not None
    sptes = (spte for page in scene.vm.snapshot().pages for spte in page.sptes().values())
    return [spte for spte in sptes if spte.kind is Kind.LEAF and start <= spte.pfn <= end]


def faults(scene: Scene) -> int:
    """How many faults KVM has handled."""
    return scene.cpu.vcpu.stat["pf_taken"]


def slot_at(scene: Scene, gpa: int) -> KvmMemorySlot:
    """The slot there."""
    slot = scene.vm.kvm.memslots[0].find(gpa >> 12)
    assert slot is not None
    return slot


@pytest.mark.spec(LOGGED)
def test_no_spte_of_a_logged_slot_stays_writable(kernel: str, mmu: MmuKind) -> None:
    """The slot was mapped by large sptes. After that the first write to each page faults and is noted, as a page of
    4 KiB; the second does not fault. Another slot is as it was."""
    scene = guest(kernel, mmu, memory={GIB: 4 * MIB, 2 * GIB: 2 * MIB}, host_level=2)
    for address in (GIB, GIB + 2 * MIB, 2 * GIB):
        scene.cpu.write(address, 1)
    logged, other = (GIB >> 12, (GIB + 4 * MIB >> 12) - 1), (2 * GIB >> 12, (2 * GIB + 2 * MIB >> 12) - 1)
    assert [(spte.level, spte.writable) for spte in leaves(scene, *logged)] == [(2, True)] * 2

    set_memory_region_flags(scene.vm.kvm, slot_at(scene, GIB), KVM_MEM_LOG_DIRTY_PAGES)

    assert not any(spte.writable for spte in leaves(scene, *logged))
    assert [spte.writable for spte in leaves(scene, *other)] == [True]
    written = [GIB + 0x5000, GIB + 2 * MIB + 0x7000]
    for address in written:
        before = faults(scene)
        scene.cpu.write(address, 2)
        assert faults(scene) == before + 1
        scene.cpu.write(address, 3)
        assert faults(scene) == before + 1
    assert [spte.level for spte in leaves(scene, *logged) if spte.writable] == [1, 1]
    assert kvm_vm_ioctl_get_dirty_log(scene.vm.kvm, slot_at(scene, GIB)) == {gpa >> 12 for gpa in written}


@pytest.mark.spec(LOGGED)
def test_with_a_page_modification_log_the_dirty_flag_is_cleared_instead(kernel: str) -> None:
    """The spte keeps W and loses D; the guest's write does not fault, and is noted."""
    scene = guest(kernel, MmuKind.TDP, tdp_format=TdpFormat.EPT, pml=True)
    scene.cpu.write(0x5000, 1)

    set_memory_region_flags(scene.vm.kvm, slot_at(scene, 0), KVM_MEM_LOG_DIRTY_PAGES)
    cleared = [(spte.writable, spte.dirty) for spte in leaves(scene, 5, 5)]
    before = faults(scene)
    scene.cpu.write(0x5000, 2)

    assert cleared == [(True, False)]
    assert faults(scene) == before
    assert [(spte.writable, spte.dirty) for spte in leaves(scene, 5, 5)] == [(True, True)]
    assert kvm_vm_ioctl_get_dirty_log(scene.vm.kvm, slot_at(scene, 0)) == {5}


def table_guest(kernel: str, level: int) -> tuple[Editor, int]:
    """A guest that has written to the frame of a table that it did not use as such yet, by two addresses; the frame."""
    scene = editing_guest(kernel, {0x5000: 0x6000})
    assert scene.tables is not None
    scene.map({ALIAS + n * PAGE: TABLES + n * PAGE for n in range(32)}, flags=USED)
    table = scene.tables.entry_address(0x5000, level) & -PAGE
    for window in (scene.window, ALIAS):
        scene.cpu.write(window + table - TABLES + 8 * 300, 0)
    return scene, table >> 12


@pytest.mark.spec(PROTECTED)
@pytest.mark.spec(TABLE)
@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_table_that_is_shadowed_and_in_step_is_write_protected(kernel: str, level: int) -> None:
    """The guest has used the frame as memory, and then uses it as a table of whatever level: no spte for it is writable,
    and the next write faults."""
    scene, table = table_guest(kernel, level)
    assert [spte.writable for spte in leaves(scene, table, table)] == [True, True]

    scene.reads(0x5000)

    assert [spte.writable for spte in leaves(scene, table, table)] == [False, False]
    before = faults(scene)
    scene.cpu.write(ALIAS + (table << 12) - TABLES + 8 * 301, 0)
    assert faults(scene) == before + 1


@pytest.mark.spec(PROTECTED)
@pytest.mark.spec(TABLE)
def test_a_table_that_is_in_step_again_is_protected_again(kernel: str) -> None:
    """The guest writes to its last-level table, which is not in step then, and flushes: the page is, no spte for the
    table's frame is writable, and the next write faults once more."""
    scene, table = table_guest(kernel, 1)
    scene.reads(0x5000)
    for window in (scene.window, ALIAS):
        scene.cpu.write(window + (table << 12) - TABLES + 8 * 301, 0)
    assert [spte.writable for spte in leaves(scene, table, table)] == [True, True]

    scene.cpu.mov_cr3(scene.cpu.vcpu.registers.cr3)
    scene.reads(0x5000)

    assert [spte.writable for spte in leaves(scene, table, table)] == [False, False]
    before = faults(scene)
    scene.cpu.write(ALIAS + (table << 12) - TABLES + 8 * 302, 0)
    assert faults(scene) == before + 1
