"""What the host's processor is loaded with to run a guest: registers, and levels of nested paging."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from conformance.looking import processor
from conformance.scenes import GIB, MIB, PAGING, Scene, guest
from mmu_model.hardware import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PGE,
    CR4_PKE,
    CR4_PKS,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    Mode,
    PageFault,
    Registers,
)
from mmu_model.kvm.vm import TdpFormat
from mmu_model.machine import VirtualMachine
from mmu_model.snapshot import MmuKind

CR0_CD = 1 << 30
FORBIDDING = CR4_SMEP | CR4_SMAP | CR4_PKE


def uses_memory(scene: Scene) -> bool:
    """Whether the supervisor can read, write and fetch at 0x5000, which nothing forbids."""
    scene.cpu.write(0x5000, 5)
    return scene.cpu.read(0x5000) == scene.cpu.fetch(0x5000) == 5


def test_a_guest_without_paging_runs_with_paging(kernel: str) -> None:
    """Shadow paging: PAE, and nothing that keeps the supervisor from the pages of users, which all of them are.

    svm_set_cr0 and svm_set_cr4 add PG, WP and PAE; in EFER, NX is always on, and LME goes without LMA.
    """
    scene = guest(kernel, MmuKind.SHADOW)
    own = Registers(
        cr0=CR0_CD,
        cr4=FORBIDDING | CR4_PGE | CR4_LA57,
        efer=EFER_LME,
        pkru=0xFFFF_FFFF,
        pkrs=0xF0F0_F0F0,
        maxphyaddr=46,
    )
    scene.cpu.set_registers(own)

    assert uses_memory(scene)
    running = processor(scene.cpu).registers
    assert running.cr0 == CR0_CD | CR0_PE | CR0_PG | CR0_WP
    assert running.cr3 == scene.cpu.vcpu.mmu.root.hpa
    assert running.cr4 == CR4_PAE | CR4_PGE | CR4_LA57
    assert running.efer == EFER_NXE
    assert running.mode is Mode.PAE
    assert (running.pkru, running.pkrs, running.maxphyaddr) == (own.pkru, own.pkrs, 46)
    assert scene.cpu.vcpu.registers == own


@pytest.mark.parametrize("paging", ["32-bit", "PAE", "4-level", "5-level"])
def test_a_guest_with_paging_keeps_what_forbids(kernel: str, paging: str) -> None:
    """Shadow paging: SMEP, SMAP and keys are the guest's, WP and NX are KVM's, the mode is PAE at least."""
    scene = guest(
        kernel,
        MmuKind.SHADOW,
        paging,
        mapped={0x5000: MIB},
        mapped_flags=3,
        cr0_wp=False,
        nx=False,
        cr4=FORBIDDING | CR4_PGE,
    )
    assert uses_memory(scene)
    own, running = scene.cpu.vcpu.registers, processor(scene.cpu).registers
    assert not own.cr0 & CR0_WP
    assert not own.nxe
    assert running.cr0 == own.cr0 | CR0_WP
    assert running.cr4 == own.cr4 | CR4_PAE
    assert running.efer == own.efer | EFER_NXE
    assert running.mode is (Mode.PAE if paging == "32-bit" else PAGING[paging])


@pytest.mark.parametrize(
    ("cr4", "rights", "how"),
    [
        (CR4_PKE, {"pkru": 1}, "read"),
        (CR4_PKE, {"pkru": 2}, "write"),
        (CR4_SMAP, {}, "read"),
        (CR4_SMEP, {}, "fetch"),
    ],
    ids=["AD", "WD", "SMAP", "SMEP"],
)
def test_rights_of_the_guest_are_those_of_the_processor(
    kernel: str, mmu: MmuKind, cr4: int, rights: dict[str, int], how: str
) -> None:
    """A page of users: the supervisor is kept from it by its own registers."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: MIB}, cr4=cr4)
    registers = replace(scene.cpu.vcpu.registers, **rights)  # type: ignore[arg-type]
    scene.cpu.set_registers(registers)
    acts: dict[str, Callable[[], object]] = {
        "read": lambda: scene.cpu.read(0x5000),
        "write": lambda: scene.cpu.write(0x5000, 1),
        "fetch": lambda: scene.cpu.fetch(0x5000),
    }
    act = acts[how]
    with pytest.raises(PageFault):
        act()

    scene.cpu.set_registers(replace(registers, pkru=0, ac=True, cr4=registers.cr4 & ~CR4_SMEP))
    act()


def test_supervisor_keys_are_the_guests(kernel: str, mmu: MmuKind) -> None:
    """IA32_PKRS is as much the guest's as PKRU: key 0 is the key of every page that has none."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: MIB}, mapped_flags=3, cr4=CR4_PKS)
    registers = scene.cpu.vcpu.registers
    scene.cpu.set_registers(replace(registers, pkrs=2))

    scene.cpu.read(0x5000)

    assert processor(scene.cpu).registers.pkrs == 2


@pytest.mark.parametrize(
    ("max_tdp_level", "x86_64", "levels", "width"),
    [(4, True, 4, 48), (5, True, 5, 57), (4, False, 3, 32)],
    ids=["4", "5", "PAE"],
)
def test_levels_of_nested_page_tables(
    kernel: str, max_tdp_level: int, x86_64: bool, levels: int, width: int
) -> None:
    """NPT has the paging of the host's kernel, which has NX on."""
    scene = guest(kernel, MmuKind.DIRECT, max_tdp_level=max_tdp_level, x86_64=x86_64)
    assert uses_memory(scene)
    second = processor(scene.cpu).second_dimension
    assert second is not None
    assert len(second.steps) == levels
    assert second.top_shift == width


@pytest.mark.parametrize(
    ("mmu", "tdp_format"),
    [
        (MmuKind.SHADOW, TdpFormat.NPT),
        *((mmu, kind) for mmu in (MmuKind.TDP, MmuKind.DIRECT) for kind in TdpFormat),
    ],
    ids=str,
)
def test_large_pages_that_nobody_executes(kernel: str, mmu: MmuKind, tdp_format: TdpFormat) -> None:
    """KVM makes them so by NX, or X, which the processor has to know; the guest has no such bit."""
    vm = VirtualMachine(kernel, mmu, nx_huge_pages=True, tdp_format=tdp_format)
    vm.add_memory(0, 4 * MIB, level=2)
    scene = Scene(vm, vm.add_cpu())
    scene.cpu.write(0x20_5000, 0x55)
    assert {page.role.level for page in vm.snapshot().pages if page.sptes()} >= {2}

    assert scene.cpu.read(0x20_5000) == 0x55
    assert scene.cpu.fetch(0x20_5000) == 0x55
    assert vm.kvm.stat["pages_4k"] or mmu is not MmuKind.TDP


@pytest.mark.parametrize("maxphyaddr", [40, 46, 51, 52])
@pytest.mark.parametrize(
    ("mmu", "tdp_format"),
    [(MmuKind.SHADOW, TdpFormat.NPT), *((MmuKind.TDP, kind) for kind in TdpFormat)],
    ids=str,
)
def test_devices_whatever_the_width_of_addresses(
    kernel: str, mmu: MmuKind, tdp_format: TdpFormat, maxphyaddr: int
) -> None:
    """An MMIO spte faults by bits that are reserved on this very processor, if there are any left."""
    scene = guest(
        kernel, mmu, "4-level", mapped={0x5000: 3 * GIB}, maxphyaddr=maxphyaddr, tdp_format=tdp_format
    )
    for value in (1, 2, 3):
        scene.cpu.write(0x5000, value)
        assert scene.cpu.read(0x5000) == value
    assert processor(scene.cpu).registers.maxphyaddr == maxphyaddr
    assert scene.cpu.vcpu.registers.efer & EFER_LMA
