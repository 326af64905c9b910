"""Section "Synchronized and unsynchronized pages"; and of "Reaction to events": invlpg."""

import pytest

from conformance.between import before
from conformance.looking import backing, reached, structs
from conformance.pictures import Camera
from conformance.remapping import HERE, NEW, OLD, OTHER, page_at, remappable
from conformance.scenes import MIB, PAGE, USED, page_tables, paging_registers
from mmu_model.hardware import CR4_PGE, LogicalProcessor, Mode, PhysicalMemory
from mmu_model.hardware.tables import PageTables, frames_from

FRAME = (1 << 52) - PAGE


@pytest.mark.spec("synchronized-and-unsynchronized-pages/guest-events/flush-and-invlpg")
@pytest.mark.parametrize("flush", ["none", "invlpg", "mov cr3", "cr4.pge"])
def test_a_processor_sees_the_change_after_a_flush(flush: str) -> None:
    """The same without KVM: the processor's TLB has the old entry until then."""
    memory = PhysicalMemory(40)
    tables = PageTables(memory, Mode.FOUR_LEVEL, frames_from(0x10_0000))
    entry = tables.map(0x5000, HERE)
    memory.write(HERE, OLD)
    memory.write(OTHER, NEW)
    registers = paging_registers(Mode.FOUR_LEVEL, tables.root, 40)
    running = LogicalProcessor(memory, registers)
    assert running.read(0x5000) == OLD
    memory.write(entry, OTHER | USED)

    {
        "none": lambda: None,
        "invlpg": lambda: running.invlpg(0x5000),
        "mov cr3": lambda: running.mov_cr3(registers.cr3),
        "cr4.pge": lambda: running.mov_cr4(registers.cr4 ^ CR4_PGE),
    }[flush]()

    assert running.read(0x5000) == (OLD if flush == "none" else NEW)


@pytest.mark.spec("synchronized-and-unsynchronized-pages/tlb-flush/synchronizes-all-reachable")
@pytest.mark.spec("synchronized-and-unsynchronized-pages/side-effect/resynchronized-on-flush")
@pytest.mark.parametrize("flush", ["mov cr3", "cr4.pge"])
@pytest.mark.parametrize("paging", ["PAE", "4-level", "5-level"])
def test_a_flush_synchronizes_all_that_cr3_reaches(
    kernel: str, paging: str, flush: str, picture: Camera
) -> None:
    """Three tables have been changed, far apart; with PAE below two of the four roots. After MOV to CR3, or a change of
    CR4.PGE, no page is unsync, and no spte has what the guest's tables have not."""
    addresses = (0x5000, 2 * MIB, 1 << 30)
    scene = remappable(kernel, *addresses, paging=paging)
    for address in addresses:
        scene.edit(address, OTHER | USED)
    assert sum(sp.unsync for sp in structs(scene.vm)) == 3
    registers = scene.cpu.vcpu.registers

    if flush == "mov cr3":
        scene.cpu.mov_cr3(registers.cr3)
    else:
        scene.cpu.mov_cr4(registers.cr4 ^ CR4_PGE)
    scene.reads(scene.window)

    assert not any(sp.unsync for sp in structs(scene.vm))
    old = backing(scene.vm, HERE >> 12)
    assert [leaf.offset << 12 for leaf in reached(scene.vm.snapshot()) if leaf.spte.pfn == old] == []
    assert [scene.reads(address) for address in addresses] == [NEW] * 3
    picture("After a flush", scene.vm)


@pytest.mark.spec("synchronized-and-unsynchronized-pages/side-effect/resynchronized-on-flush")
def test_what_cr3_does_not_reach_waits_until_it_does(kernel: str) -> None:
    """Edge: a table of another address space was changed. A flush in this one leaves its page unsync; when CR3 leads
    there, it is synchronized."""
    scene = remappable(kernel, 0x5000)
    first = scene.cpu.vcpu.registers.cr3
    second = page_tables(scene.vm, Mode.FOUR_LEVEL, 40 * MIB, [])
    for number in range(32):
        second.map(scene.window + number * PAGE, 32 * MIB + number * PAGE, flags=USED)
    table = page_at(scene, 0x5000)
    scene.cpu.mov_cr3(second.root)
    scene.edit(0x5000, OTHER | USED)

    seen = []
    for root in (second.root, first):
        scene.cpu.mov_cr3(root)
        scene.reads(scene.window)
        seen.append(table.unsync)

    assert seen == [True, False]
    assert scene.reads(0x5000) == NEW


@pytest.mark.spec("synchronized-and-unsynchronized-pages/tlb-flush/tables-are-write-protected", refutes=True)
def test_tables_of_the_last_level_are_not_kept_protected(kernel: str) -> None:
    """The guest's own write makes them writable, and the spte says nothing new. Where KVM does see a write, in
    an upper table, it drops the spte and leaves it to the next fault."""
    scene = remappable(kernel, 0x5000, 1 << 30)
    scene.edit(0x5000, OTHER | USED)
    scene.edit(0x5000, OTHER | USED)
    assert page_at(scene, 0x5000).unsync
    directory = page_at(scene, 1 << 30, 2)
    assert scene.tables is not None
    entry = scene.vm.memory.read(scene.tables.entry_address(1 << 30, 2))

    scene.edit(1 << 30, entry, level=2)

    assert scene.vm.host.read(directory.sptep(0)) == scene.vm.kvm.kernel.shadow_nonpresent_value


@pytest.mark.spec("synchronized-and-unsynchronized-pages/reachable-table/reachable-from-cr3", refutes=True)
def test_a_table_that_cr3_does_not_reach_loses_its_protection_too(kernel: str) -> None:
    """The guest writes to a table of another address space, and it becomes unsync as any other."""
    scene = remappable(kernel, 0x5000)
    table = page_at(scene, 0x5000)
    second = page_tables(scene.vm, Mode.FOUR_LEVEL, 40 * MIB, [])
    for number in range(32):
        second.map(scene.window + number * PAGE, 32 * MIB + number * PAGE, flags=USED)
    scene.cpu.mov_cr3(second.root)

    scene.edit(0x9000, OTHER | USED)

    assert table.unsync
    assert scene.cpu.vcpu.stat["pf_emulate"] == 0


@pytest.mark.spec("synchronized-and-unsynchronized-pages/reachable-table/protection-removed")
@pytest.mark.spec("reaction-to-events/unsync/tried")
@pytest.mark.spec("reaction-to-events/unsync-done/guest-continues")
def test_after_the_first_write_the_guest_writes_freely(kernel: str) -> None:
    """The first may fault; the others do not, whatever entry they are to."""
    scene = remappable(kernel, 0x5000)
    scene.edit(0x5000, HERE | USED)
    faults = scene.cpu.vcpu.stat["pf_taken"]

    for number in range(8):
        scene.edit((64 + number) * PAGE, OTHER | USED)

    assert scene.cpu.vcpu.stat["pf_taken"] == faults
    assert scene.vm.memory.read(scene.frames[3] + 8 * 71) == OTHER | USED


@pytest.mark.spec("synchronized-and-unsynchronized-pages/reachable-table/saves-emulation")
@pytest.mark.parametrize("use", ["many gptes", "random data"])
def test_nothing_is_emulated_however_the_table_is_written(kernel: str, use: str) -> None:
    """Many entries one after the other, or bytes anywhere, as in memory that is a table no more."""
    scene = remappable(kernel, 0x5000)

    for number in range(16):
        if use == "many gptes":
            scene.edit((64 + number) * PAGE, HERE | USED)
        else:
            scene.cpu.write(scene.gpte((64 + number) * PAGE) + 3, 0x5A, 1)

    assert scene.cpu.vcpu.stat["pf_emulate"] == 0


@pytest.mark.spec("reaction-to-events/invlpg-drop/affected-translations")
@pytest.mark.parametrize("kernel", ["6.1"])
def test_invlpg_drops_the_translation(kernel: str) -> None:
    """6.1 clears the spte of an unsync page, before it does anything else."""
    assert cleared_by_invlpg(kernel)


@pytest.mark.spec("reaction-to-events/invlpg-drop/affected-translations", refutes=True)
@pytest.mark.parametrize("kernel", ["6.12"])
def test_invlpg_changes_the_translation_in_its_place(kernel: str) -> None:
    """6.12 makes the spte say what the entry says, and it is present all the time."""
    assert not cleared_by_invlpg(kernel)


def cleared_by_invlpg(kernel: str) -> bool:
    """Whether INVLPG of an address whose entry lost W, and nothing else, clears the spte at any time."""
    scene = remappable(kernel, 0x5000)
    page = page_at(scene, 0x5000)
    scene.edit(0x5000, HERE | USED & ~2)
    seen: list[int] = []
    with before("shadow.sptes.clear_spte", lambda: seen.append(1)):
        scene.cpu.invlpg(0x5000)
    assert scene.vm.host.read(page.sptep(5)) & FRAME == scene.vm.memory.hpa(HERE)
    assert not scene.vm.host.read(page.sptep(5)) & 2
    return bool(seen)


@pytest.mark.spec("reaction-to-events/invlpg-reinstantiate/indicated-translation")
@pytest.mark.parametrize("kernel", ["6.1"])
def test_invlpg_makes_the_new_translation(kernel: str) -> None:
    """6.1: the guest's entry has another frame; the spte has it at once, without a fault."""
    assert mapped_after_invlpg(kernel) == NEW


@pytest.mark.spec("reaction-to-events/invlpg-reinstantiate/indicated-translation", refutes=True)
@pytest.mark.parametrize("kernel", ["6.12"])
def test_invlpg_leaves_another_frame_to_the_next_fault(kernel: str) -> None:
    """6.12: the entry has another frame, so the spte is dropped, and that is all."""
    assert mapped_after_invlpg(kernel) is None


def mapped_after_invlpg(kernel: str) -> int | None:
    """What is in the frame that the spte maps after the entry was changed and INVLPG executed."""
    scene = remappable(kernel, 0x5000)
    page = page_at(scene, 0x5000)
    scene.edit(0x5000, OTHER | USED)
    scene.cpu.invlpg(0x5000)
    spte = scene.vm.host.read(page.sptep(5))
    present = spte != scene.vm.kvm.kernel.shadow_nonpresent_value
    return scene.vm.host.memory.read(spte & FRAME) if present else None
