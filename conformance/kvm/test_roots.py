"""Roots: which a vCPU has loaded and which it remembers, when it lets go of them, and what it brings in step."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from conformance.kvm import somebody
from conformance.looking import structs
from conformance.scenes import GIB, MIB, PAGE, Scene, editing_guest, guest, page_tables, paging_registers
from mmu_model.hardware import CR0_PG, CR0_WP, CR4_PAE, CR4_PCIDE, CR4_PGE, CR4_SMEP, Mode, PageFault
from mmu_model.kvm.memslot import KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS
from mmu_model.kvm.roots import kvm_mmu_free_obsolete_roots, kvm_mmu_load, serve_requests
from mmu_model.kvm.task import Steps, WouldWaitForEver, finish
from mmu_model.kvm.vcpu import KvmVcpu
from mmu_model.snapshot import MmuKind

NO_FLUSH = 1 << 63
DEVICE = 3 * GIB


def many_tables(
    kernel: str, count: int, mode: Mode = Mode.FOUR_LEVEL, cr4: int = 0
) -> tuple[Scene, list[int]]:
    """A shadowed guest with so many sets of tables, each from 0x5000 to a page that holds its number, and to
    itself at 1 GiB; and the CR3 of each, with PCIDs from 1 on if they are in use."""
    scene = guest(kernel, MmuKind.SHADOW)
    roots = []
    for number in range(count):
        where = 32 * MIB + number * MIB
        tables = page_tables(scene.vm, mode, where, [])
        tables.map(0x5000, 0x6000 + number * PAGE)
        tables.map(0x7000, DEVICE)
        for n in range(8):
            tables.map(GIB + n * PAGE, where + n * PAGE, flags=0x67)
        scene.vm.memory.write(0x6000 + number * PAGE, number)
        roots.append(tables.root | (number + 1 if cr4 & CR4_PCIDE else 0))
    scene.cpu.set_registers(paging_registers(mode, roots[0], cr4=cr4))
    return scene, roots


def remembered(scene: Scene) -> list[int]:
    """By which CR3 a vCPU has roots: the loaded one first."""
    mmu = scene.cpu.vcpu.root_mmu
    return [root.pgd for root in (mmu.root, *mmu.prev_roots) if root.is_valid]


def test_the_last_three_roots_are_remembered(kernel: str) -> None:
    """Newest first; a fourth drops the one that was not used for longest, and the page of it is gone."""
    scene, roots = many_tables(kernel, 5)
    for cr3 in roots[:4]:
        scene.cpu.mov_cr3(cr3)
        scene.reads(0x5000)
    before = remembered(scene)
    scene.cpu.mov_cr3(roots[1])
    again = remembered(scene)
    scene.reads(0x5000)
    scene.cpu.mov_cr3(roots[4])
    dropped = remembered(scene)

    assert before == [roots[3], roots[2], roots[1], roots[0]]
    assert again == [roots[1], roots[3], roots[2], roots[0]]
    assert dropped == [roots[1], roots[3], roots[2]]
    assert scene.reads(0x5000) == 4
    assert remembered(scene) == [roots[4], roots[1], roots[3], roots[2]]
    held = {int(sp.gfn): sp.root_count for sp in structs(scene.vm) if sp.role.level == 4}
    assert held == {cr3 >> 12: int(cr3 != roots[0]) for cr3 in roots}


def test_a_root_that_is_remembered_is_loaded_as_it_is(kernel: str) -> None:
    """No page is looked for or made; the guest sees what its tables say."""
    scene, roots = many_tables(kernel, 2)
    seen, pages = [], []
    for cr3 in (*roots, *roots):
        scene.cpu.mov_cr3(cr3)
        seen.append(scene.reads(0x5000))
        pages.append(int(scene.cpu.vcpu.mmu.root.hpa))

    assert seen == [0, 1, 0, 1]
    assert pages[:2] == pages[2:] and pages[0] != pages[1]


def test_roots_of_another_mode_are_not_taken_again(kernel: str) -> None:
    """The same CR3, and a root for another role: the guest turned CR0.WP off meanwhile."""
    scene, roots = many_tables(kernel, 2)
    for cr3 in roots:
        scene.cpu.mov_cr3(cr3)
        scene.reads(0x5000)
    scene.cpu.mov_cr0(scene.cpu.vcpu.registers.cr0 & ~CR0_WP)
    assert remembered(scene) == []

    scene.reads(0x5000)
    assert [sp.role.cr0_wp for sp in structs(scene.vm) if sp.root_count] == [0]


@pytest.mark.parametrize("mode", [Mode.THIRTY_TWO_BIT, Mode.PAE])
def test_roots_without_a_page_are_never_remembered(kernel: str, mode: Mode) -> None:
    """PAE roots are of the vCPU: their four entries are dropped with the CR3 that they were for."""
    scene, roots = many_tables(kernel, 2, mode)
    seen = []
    for cr3 in (*roots, *roots):
        scene.cpu.mov_cr3(cr3)
        assert remembered(scene) == []
        assert not any(sp.root_count for sp in structs(scene.vm))
        seen.append(scene.reads(0x5000))
        assert remembered(scene) == [cr3]

    assert seen == [0, 1, 0, 1]
    pae_root = scene.cpu.vcpu.mmu.pae_root
    assert pae_root is not None
    scene.cpu.mov_cr3(roots[0])
    assert scene.vm.host.words(pae_root)[:4] == [0, 0, 0, 0]


def store_entry(scene: Scene, cr3: int, value: int) -> None:
    """The guest writes the last entry for 0x5000 by the tables that are in use, without a flush."""
    tables = cr3 & ~0xFFF
    memory = scene.vm.memory
    table = tables
    for _ in range(3):
        table = memory.read(table) & ~0xFFF
    scene.cpu.write(GIB + table - tables + 5 * 8, value)


@pytest.mark.parametrize("flush", [True, False])
def test_mov_to_cr3_brings_the_root_in_step_if_it_flushes(kernel: str, flush: bool) -> None:
    """With PCIDs the guest may keep what its TLB has: then its edit shows later."""
    scene, (cr3,) = many_tables(kernel, 1, cr4=CR4_PCIDE)
    scene.reads(0x5000)
    store_entry(scene, cr3, 0x7067)
    scene.vm.memory.write(0x7000, 77)

    scene.cpu.mov_cr3(cr3 | (0 if flush else NO_FLUSH))

    assert scene.reads(0x5000) == (77 if flush else 0)


def test_without_pcids_bit_63_keeps_nothing(kernel: str) -> None:
    """It is reserved then."""
    scene, (cr3,) = many_tables(kernel, 1)
    scene.reads(0x5000)
    with pytest.raises(Exception, match="CR3"):
        scene.cpu.mov_cr3(cr3 | NO_FLUSH)


def test_a_flush_of_another_pcid_drops_the_roots_that_are_remembered_for_it(kernel: str) -> None:
    """A MOV to CR3 that flushes gives up what is remembered for that PCID, and of others nothing."""
    scene, roots = many_tables(kernel, 3, cr4=CR4_PCIDE)
    for cr3 in roots:
        scene.cpu.mov_cr3(cr3)
        scene.reads(0x5000)
    assert remembered(scene) == [roots[2], roots[1], roots[0]]

    other = roots[2] & ~0xFFF | roots[0] & 0xFFF
    scene.cpu.mov_cr3(other)

    assert remembered(scene) == [roots[2], roots[1]]
    assert scene.reads(0x5000) == 2
    assert remembered(scene) == [other, roots[2], roots[1]]


def test_another_vcpu_sees_what_the_tables_say(kernel: str) -> None:
    """It never used an address, so nothing of before is in its TLB, though the tables below its root are
    shared with a vCPU that has not flushed."""
    scene = editing_guest(kernel, {0x5000: 0x6000})
    scene.vm.memory.write(0x6000, 66)
    scene.vm.memory.write(0x7000, 77)
    scene.reads(0x5000)
    scene.edit(0x5000, 0x7067)
    assert scene.reads(0x5000) == 66

    second = scene.vm.add_cpu(scene.cpu.vcpu.registers)

    assert second.read(0x5000) == 77


@pytest.mark.parametrize("pge", [True, False])
def test_a_flush_of_everything_brings_the_root_in_step(kernel: str, pge: bool) -> None:
    """By CR4.PGE; without it the guest still uses what its TLB has."""
    scene, (cr3,) = many_tables(kernel, 1)
    scene.reads(0x5000)
    store_entry(scene, cr3, 0x9067)
    scene.vm.memory.write(0x9000, 99)

    if pge:
        scene.cpu.mov_cr4(scene.cpu.vcpu.registers.cr4 | CR4_PGE)

    assert scene.reads(0x5000) == (99 if pge else 0)


def test_a_remembered_root_that_is_unsync_goes_with_a_flush_of_everything(kernel: str) -> None:
    """An edit was made below it, and the guest left it for other tables without a flush."""
    scene, roots = many_tables(kernel, 2, cr4=CR4_PCIDE)
    cpu = scene.cpu
    scene.reads(0x5000)
    store_entry(scene, roots[0], 0x9067)
    scene.vm.memory.write(0x9000, 99)
    cpu.mov_cr3(roots[1] | NO_FLUSH)
    scene.reads(0x5000)
    assert remembered(scene) == [roots[1], roots[0]]

    cpu.mov_cr4(cpu.vcpu.registers.cr4 | CR4_PGE)
    scene.reads(0x5000)

    assert remembered(scene) == [roots[1]]
    cpu.mov_cr3(roots[0] | NO_FLUSH)
    assert scene.reads(0x5000) == 99


def test_what_changes_no_role_keeps_the_roots(kernel: str) -> None:
    """CR4.PGE and CR0.TS are no part of a role; CR0.PG, CR0.WP, CR4.SMEP and more are."""
    scene, roots = many_tables(kernel, 2)
    cpu = scene.cpu
    for cr3 in roots:
        cpu.mov_cr3(cr3)
        scene.reads(0x5000)
    cpu.mov_cr0(cpu.vcpu.registers.cr0 | 1 << 3)
    cpu.mov_cr4(cpu.vcpu.registers.cr4 | 1 << 9)
    assert remembered(scene) == [roots[1], roots[0]]

    cpu.mov_cr4(cpu.vcpu.registers.cr4 | CR4_SMEP)
    assert remembered(scene) == []


@pytest.mark.parametrize("how", ["CR3", "CR4.PGE", "CR0.CD", "CR0.TS"])
def test_pdptes_that_changed_make_new_roots(kernel: str, how: str) -> None:
    """The guest changes a PDPTE in memory, and makes the processor load it, by CR3 or otherwise (SDM vol. 3, 4.4.1):
    the roots for the old ones go. Other bits of CR0 load nothing."""
    scene, (cr3,) = many_tables(kernel, 1, Mode.PAE)
    other = page_tables(scene.vm, Mode.PAE, 40 * MIB, [])
    other.map(0x5000, 0x9000)
    scene.vm.memory.write(0x9000, 99)
    seen = [scene.reads(0x5000)]
    scene.vm.memory.write(cr3, scene.vm.memory.read(other.root))
    seen.append(scene.reads(0x5000))
    cpu, registers = scene.cpu, scene.cpu.vcpu.registers

    if how == "CR3":
        cpu.mov_cr3(cr3)
    elif how == "CR4.PGE":
        cpu.mov_cr4(registers.cr4 ^ CR4_PGE)
    else:
        cpu.mov_cr0(registers.cr0 ^ (1 << 30 if how == "CR0.CD" else 1 << 3))

    assert [*seen, scene.reads(0x5000)] == [0, 0, 0 if how == "CR0.TS" else 99]


@pytest.mark.parametrize("how", ["registers", "CR3"])
def test_what_is_remembered_of_devices_goes_with_the_tables(kernel: str, how: str) -> None:
    """The address of the last access to a device was one of the tables of before (vcpu_clear_mmio_info)."""
    scene, roots = many_tables(kernel, 2)
    for cr3 in reversed(roots):
        scene.cpu.mov_cr3(cr3)
        scene.reads(0x5000)
    scene.cpu.write(0x7000, 5)
    assert scene.vm.snapshot().vcpus[0].mmio.gva == 0x7000

    if how == "CR3":
        scene.cpu.mov_cr3(roots[1])
    else:
        scene.cpu.set_registers(scene.cpu.vcpu.registers)

    assert scene.vm.snapshot().vcpus[0].mmio.gva == 0


def test_while_slots_change_no_device_is_remembered(kernel: str, mmu: MmuKind) -> None:
    """What is there in a moment, nobody knows."""
    scene = guest(kernel, mmu)
    slots = scene.vm.kvm.memslots[0]
    slots.generation |= KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS
    scene.cpu.write(DEVICE, 5)
    assert scene.vm.snapshot().vcpus[0].mmio.gfn == 0


def test_a_table_that_is_loaded_again_is_no_longer_flooded(kernel: str) -> None:
    """Writes to it were counted since it was used last, and now it is used (mmu.c: kvm_mmu_new_pgd)."""
    scene, roots = many_tables(kernel, 2)
    for cr3 in roots:
        scene.cpu.mov_cr3(cr3)
        scene.reads(0x5000)
    (first,) = [sp for sp in structs(scene.vm) if sp.root_count and int(sp.gfn) == roots[0] >> 12]
    first.write_flooding_count = 2

    scene.cpu.mov_cr3(roots[0])

    assert first.write_flooding_count == 0
    assert scene.reads(0x5000) == 0


def test_obsolete_roots_are_let_go_of_wherever_they_are(kernel: str) -> None:
    """A slot went: of those loaded and those remembered, none is left at the next entry, and the guest goes on."""
    scene, roots = many_tables(kernel, 3)
    for cr3 in roots:
        scene.cpu.mov_cr3(cr3)
        scene.reads(0x5000)
    scene.vm.remove_memory(scene.vm.add_memory(8 * GIB, MIB))
    assert {sp.role.invalid for sp in structs(scene.vm)} == {1}

    assert scene.reads(0x5000) == 2
    assert remembered(scene) == [roots[2]]
    assert {sp.role.invalid for sp in structs(scene.vm)} == {0}


@pytest.mark.parametrize("act", [kvm_mmu_free_obsolete_roots, serve_requests, kvm_mmu_load])
def test_who_gets_or_gives_up_a_root_waits_for_the_lock(
    kernel: str, mmu: MmuKind, act: Callable[[KvmVcpu], Steps[None]]
) -> None:
    """6.12 needs it only for a root that is not there yet; the old one is obsolete, and another is to be got."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: 0x6000})
    scene.reads(0x5000)
    slot = scene.vm.add_memory(GIB, MIB)
    scene.reads(0x5000)
    scene.vm.remove_memory(slot)
    with somebody.has(scene.vm.kvm.mmu_lock.write), pytest.raises(WouldWaitForEver, match="mmu_lock"):
        finish(act(scene.cpu.vcpu))


def test_a_guest_whose_tables_are_nowhere(kernel: str) -> None:
    """6.12 gives it a root of zeroes, also where it would have four; INVLPG finds nothing there."""
    scene = guest(kernel, MmuKind.SHADOW, "32-bit", mapped={0x5000: 0x6000})
    registers = replace(scene.cpu.vcpu.registers, cr3=DEVICE)
    if kernel == "6.1":
        scene.cpu.set_registers(registers)
        with pytest.raises(Exception, match="CR3 points at no memory"):
            scene.cpu.read(0x5000)
        return
    cpu = scene.vm.add_cpu(registers)
    with pytest.raises(PageFault):
        cpu.read(0x5000)
    cpu.invlpg(0x5000)
    (_, seen) = scene.vm.snapshot().vcpus
    assert seen.root_mmu.root.kind == "dummy"


def test_paging_that_is_turned_off_and_on(kernel: str) -> None:
    """No root of the one mode is one of the other."""
    scene, (cr3,) = many_tables(kernel, 1, Mode.PAE)
    cpu = scene.cpu
    scene.vm.memory.write(0x5000, 55)
    seen = [scene.reads(0x5000)]
    for cr0 in (cpu.vcpu.registers.cr0 & ~CR0_PG, cpu.vcpu.registers.cr0):
        cpu.mov_cr0(cr0)
        assert remembered(scene) == []
        seen.append(scene.reads(0x5000))
    assert seen == [0, 55, 0]
    assert cpu.vcpu.registers.cr4 & CR4_PAE and cpu.vcpu.registers.cr3 == cr3
