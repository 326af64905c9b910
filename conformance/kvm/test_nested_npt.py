"""A hypervisor on AMD's processors runs a guest over nested page tables of its own (svm/nested.c)."""

from dataclasses import replace

import pytest

from conformance.looking import structs
from conformance.scenes import (
    GIB,
    MIB,
    NESTED_TABLES,
    PAGE,
    Scene,
    guest,
    inner_paging_guest,
    nested_guest,
    page_tables,
    paging_registers,
)
from mmu_model.hardware import CR0_WP, CR4_PKE, GeneralProtection, Mode, NestedPageFault, Registers
from mmu_model.kvm.errors import KvmError
from mmu_model.machine import TripleFault
from mmu_model.snapshot import MmuKind

FINAL, PAGE_WALK = 1 << 32, 1 << 33
P, W, US = 1, 2, 4
DEVICE = 3 * GIB
INNER = Registers(maxphyaddr=46)

over_npt = pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT], ids=lambda kind: kind.value)


def exit_of(scene: Scene, kind: str, address: int) -> tuple[int, ...]:
    """EXITINFO1 and EXITINFO2 that the hypervisor gets for an access of its guest."""
    with pytest.raises(NestedPageFault) as caught:
        scene.cpu.write(address, 1) if kind == "write" else getattr(scene.cpu, kind)(address)
    return caught.value.exit_info_1, caught.value.exit_info_2


@over_npt
def test_what_the_hypervisor_is_told(kernel: str, mmu: MmuKind) -> None:
    """Of an access to what its nested tables do not have, or do not permit (APM vol. 2, 15.25.6)."""
    scene = nested_guest(kernel, mmu, mapped={0x5000: 0x6000})
    assert scene.tables is not None
    scene.cpu.read(0x5000)
    assert exit_of(scene, "read", 0x7018) == (FINAL | US, 0x7018)
    assert exit_of(scene, "write", 0x7018) == (FINAL | US | W, 0x7018)
    scene.vm.memory.write(scene.tables.entry_address(0x9000, 1), 0x9000 | P | US)
    assert exit_of(scene, "write", 0x9008) == (FINAL | US | W | P, 0x9008)


@over_npt
@pytest.mark.parametrize("mapped", [True, False])
def test_what_it_is_told_of_a_table_of_its_guest(kernel: str, mmu: MmuKind, mapped: bool) -> None:
    """The processor's own walk of the inner guest's tables is an access to a table, and a write."""
    scene = inner_paging_guest(kernel, mmu, linear={0x5000: 0x5000}, nested={0x5000: 0x6000})
    assert scene.tables is not None
    if mapped:
        assert scene.reads(0x5000) == 0
        assert exit_of_linear(scene, 0x7_0000) == (FINAL | US, 0x20_0000)
        return
    top = scene.tables.root
    scene.vm.memory.write(top + 8, 0x30_0000 | 0x67)
    assert exit_of(scene, "read", 512 * GIB) == (PAGE_WALK | US | W, 0x30_0000)


def exit_of_linear(scene: Scene, address: int) -> tuple[int, ...]:
    """The exit for a linear address that the inner guest maps to 0x200000, which is not in the nested tables."""
    assert scene.tables is not None
    scene.vm.memory.write(scene.tables.entry_address(address, 1), 0x20_0000 | 0x67)
    return exit_of(scene, "read", address)


@over_npt
def test_an_exit_that_only_kvm_comes_by(kernel: str, mmu: MmuKind) -> None:
    """KVM emulates an access of the inner guest to a device; meanwhile the hypervisor's tables have changed."""
    scene = inner_paging_guest(kernel, mmu, linear={0x5000: 0x5000}, nested={0x5000: DEVICE})
    scene.cpu.write(0x5000, 5)
    assert scene.vm.devices == {DEVICE: 5}


@over_npt
@pytest.mark.parametrize("where", [DEVICE, DEVICE | 0x20])
def test_nested_tables_that_are_nowhere_map_nothing(kernel: str, mmu: MmuKind, where: int) -> None:
    """A hypervisor with PAE paging has four entries at the top: what is not in memory reads as none. 6.1 makes a
    triple fault of it, as of any root that is nowhere."""
    scene = nested_guest(kernel, mmu, mapped={0x5000: 0x6000}, paging="PAE")
    scene.cpu.leave_nested()
    scene.cpu.enter_nested(where, INNER)

    if kernel == "6.1":
        with pytest.raises(TripleFault):
            scene.cpu.read(0x5000)
        return
    scene.vm.memory.write(0, 0x20_00E7)  # no entry is one for a table at 0 either
    for address in (0x5000, GIB + 0x5000, 2 * GIB + 0x5000, 3 * GIB + 0x5000):
        assert exit_of(scene, "read", address) == (FINAL | US, address)


@over_npt
def test_the_four_entries_at_the_top_are_each_for_a_gib(kernel: str, mmu: MmuKind) -> None:
    """Of the PAE hypervisor's tables, wherever within a page they begin; each entry has 8 bytes."""
    mapped = {n * GIB + 0x5000: 0x6000 + n * PAGE for n in range(4)}
    scene = nested_guest(kernel, mmu, mapped=mapped, paging="PAE")
    assert scene.tables is not None
    for n in range(4):
        scene.vm.memory.write(0x6000 + n * PAGE, 60 + n)
        scene.vm.memory.write(0xA040 + 8 * n, scene.vm.memory.read(scene.tables.root + 8 * n))
    seen = [scene.reads(n * GIB + 0x5000) for n in range(4)]
    scene.cpu.leave_nested()
    scene.cpu.enter_nested(0xA040, INNER)

    assert seen == [60, 61, 62, 63]
    assert [scene.reads(n * GIB + 0x5000) for n in range(4)] == seen


@over_npt
def test_the_hypervisors_write_protection_and_keys_mean_nothing_there(kernel: str, mmu: MmuKind) -> None:
    """Nested paging asks neither CR0.WP nor protection keys of the host (APM vol. 2, 15.25.4)."""
    scene = nested_guest(kernel, mmu, mapped={0x5000: 0x6000})
    assert scene.tables is not None
    scene.cpu.leave_nested()
    outer = scene.cpu.vcpu.registers
    scene.cpu.set_registers(
        replace(outer, cr0=outer.cr0 & ~CR0_WP, cr4=outer.cr4 | CR4_PKE, pkru=0xFFFF_FFFC)
    )
    gpte = scene.tables.entry_address(0x5000, 1)
    scene.vm.memory.write(gpte, 0x6000 | P | US | 0x60 | 1 << 59)
    scene.cpu.enter_nested(scene.tables.root, INNER)

    assert scene.reads(0x5000) == 0
    assert exit_of(scene, "write", 0x5000) == (FINAL | US | W | P, 0x5000)


def test_there_is_no_nested_paging_without_that_of_the_host(kernel: str) -> None:
    """And nothing has changed."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000})
    before = scene.vm.snapshot()
    with pytest.raises(KvmError, match="without nested paging on the host"):
        scene.cpu.enter_nested(NESTED_TABLES, INNER)
    assert scene.vm.snapshot() == before


def test_who_runs_a_guest_cannot_run_another(kernel: str, mmu: MmuKind) -> None:
    """The hypervisor is not running; and who runs none cannot leave it."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: 0x6000})
    with pytest.raises(KvmError, match="no inner guest"):
        scene.cpu.leave_nested()
    scene.cpu.enter_nested(None, INNER)
    before = scene.vm.snapshot()
    with pytest.raises(KvmError, match="runs an inner guest"):
        scene.cpu.enter_nested(None, INNER)
    assert scene.vm.snapshot() == before
    scene.cpu.leave_nested()
    assert scene.reads(0x5000) == 0


def test_a_guest_that_cannot_be_entered_was_not(kernel: str) -> None:
    """Its PDPTEs are malformed: the hypervisor goes on with its own registers and memory."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000})
    scene.vm.memory.write(0x6000, 66)
    scene.vm.memory.write(8 * MIB, 0xFF)
    scene.reads(0x5000)
    before = scene.vm.snapshot()

    with pytest.raises(GeneralProtection):
        scene.cpu.enter_nested(None, paging_registers(Mode.PAE, 8 * MIB))

    assert scene.vm.snapshot() == before
    assert scene.reads(0x5000) == 66
    scene.cpu.enter_nested(None, INNER)
    assert scene.reads(0x6000) == 66


def test_a_guest_without_nested_paging_sees_the_hypervisors_addresses(kernel: str, mmu: MmuKind) -> None:
    """Its tables are in the hypervisor's memory; and the hypervisor has its own again afterwards."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: 0x6000})
    inner = page_tables(scene.vm, Mode.PAE, 40 * MIB, [])
    inner.map(0x5000, 0x8000)
    for page, value in ((0x6000, 66), (0x8000, 88)):
        scene.vm.memory.write(page, value)
    seen = [scene.reads(0x5000)]
    outer = scene.cpu.vcpu.registers
    scene.cpu.enter_nested(None, paging_registers(Mode.PAE, inner.root))
    seen.append(scene.reads(0x5000))
    guest_mode = scene.cpu.vcpu.guest_mode
    scene.cpu.leave_nested()
    seen.append(scene.reads(0x5000))

    assert (seen, guest_mode) == ([66, 88, 66], True)
    assert scene.cpu.vcpu.registers == outer


@pytest.mark.parametrize("leaving", [True, False])
def test_each_way_flushes(kernel: str, leaving: bool) -> None:
    """KVM does not tell the TLBs of hypervisor and guest apart: what either edited shows after a switch."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000, 0x7000: 32 * MIB + 3 * PAGE})
    assert scene.tables is not None
    entry = scene.tables.entry_address(0x5000, 1)
    scene.vm.memory.write(0x9000, 99)
    scene.cpu.read(0x5000)
    registers = scene.cpu.vcpu.registers
    scene.vm.memory.write(scene.tables.entry_address(0x7000, 1), entry & ~0xFFF | 0x67)
    if leaving:
        scene.cpu.enter_nested(None, INNER)
        scene.cpu.write(entry, 0x9067)
        scene.cpu.leave_nested()
    else:
        scene.cpu.enter_nested(None, registers)
        scene.cpu.read(0x5000)
        scene.cpu.leave_nested()
        scene.cpu.write(0x7000 + (entry & 0xFFF), 0x9067)
        scene.cpu.enter_nested(None, registers)

    assert scene.cpu.read(0x5000) == 99


@over_npt
def test_each_way_flushes_over_nested_tables(kernel: str, mmu: MmuKind) -> None:
    """What the hypervisor edits in its nested tables its guest sees after the next VMRUN."""
    scene = nested_guest(kernel, mmu, mapped={0x5000: 0x6000})
    assert scene.tables is not None
    scene.vm.memory.write(0x6000, 66)
    scene.vm.memory.write(0x9000, 99)
    assert scene.reads(0x5000) == 66
    unsync = [sp for sp in structs(scene.vm) if sp.role.guest_mode and sp.role.level == 1]
    scene.cpu.leave_nested()
    outer = scene.cpu.vcpu.registers
    scene.cpu.set_registers(Registers(maxphyaddr=46))
    scene.cpu.write(scene.tables.entry_address(0x5000, 1), 0x9067)
    assert [sp.unsync for sp in unsync] == [True]
    scene.cpu.set_registers(outer)
    scene.cpu.enter_nested(scene.tables.root, INNER)

    assert scene.reads(0x5000) == 99
    assert unsync[0] in structs(scene.vm) and not unsync[0].unsync  # brought in step, not made anew


@over_npt
def test_nested_tables_by_their_root(kernel: str, mmu: MmuKind) -> None:
    """The hypervisor goes back and forth between two: each time its guest has the memory of the right ones, by
    roots that are remembered."""
    scene = nested_guest(kernel, mmu, mapped={0x5000: 0x6000})
    assert scene.tables is not None
    other = page_tables(scene.vm, Mode.FOUR_LEVEL, 60 * MIB, [])
    other.map(0x5000, 0x8000)
    for page, value in ((0x6000, 66), (0x8000, 88)):
        scene.vm.memory.write(page, value)
    seen, roots = [], []
    for root in (scene.tables.root, other.root) * 2:
        scene.cpu.leave_nested()
        scene.cpu.enter_nested(root, INNER)
        seen.append(scene.reads(0x5000))
        roots.append(int(scene.cpu.vcpu.guest_mmu.root.hpa))

    assert seen == [66, 88, 66, 88]
    assert roots[:2] == roots[2:] and roots[0] != roots[1]
