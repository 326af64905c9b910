"""Whichever way a guest came to its control registers: KVM takes it to be in the mode that they select."""

from dataclasses import replace

import pytest

from conformance.scenes import MIB, Scene, guest, page_tables, paging_registers
from mmu_model.hardware import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PGE,
    CR4_PKE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LME,
    EFER_NXE,
    Mode,
    PageFault,
)
from mmu_model.machine import Cpu
from mmu_model.snapshot import MmuKind

CD = 1 << 30
CHANGES = {
    "CR0.WP": ("cr0", CR0_WP),
    "CR0.CD": ("cr0", CD),
    "CR0.PG": ("cr0", CR0_PG),
    "CR4.PSE": ("cr4", CR4_PSE),
    "CR4.PAE": ("cr4", CR4_PAE),
    "CR4.PGE": ("cr4", CR4_PGE),
    "CR4.LA57": ("cr4", CR4_LA57),
    "CR4.PCIDE": ("cr4", CR4_PCIDE),
    "CR4.SMEP": ("cr4", CR4_SMEP),
    "CR4.SMAP": ("cr4", CR4_SMAP),
    "CR4.PKE": ("cr4", CR4_PKE),
    "EFER.LME": ("efer", EFER_LME),
    "EFER.NXE": ("efer", EFER_NXE),
}
REFUSED = {
    "CR4.PAE": {Mode.FOUR_LEVEL, Mode.THIRTY_TWO_BIT},
    "CR4.LA57": {Mode.FOUR_LEVEL},
    "EFER.LME": {Mode.FOUR_LEVEL, Mode.THIRTY_TWO_BIT, Mode.PAE},
    "CR4.PCIDE": {Mode.THIRTY_TWO_BIT, Mode.PAE, Mode.OFF},
    "CR0.PG": {Mode.OFF},
}
"""What the processor refuses with paging like that, or what would need other tables."""


def believes(cpu: Cpu) -> list[object]:
    """What KVM makes of a vCPU's registers."""
    mmu, paging = cpu.vcpu.mmu, cpu.vcpu.walk_mmu.guest_paging
    assert paging is not None
    return [
        mmu.cpu_role,
        mmu.root_role,
        mmu.page_fault,
        mmu.sync_spte,
        mmu.is_tdp,
        mmu.guest_pgd,
        paging.roots,
        getattr(paging, "registers", None),
        getattr(paging, "pdptes", None),
    ]


@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.SHADOW])
@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("mode", [Mode.OFF, Mode.THIRTY_TWO_BIT, Mode.PAE, Mode.FOUR_LEVEL])
def test_a_bit_that_is_turned_on_and_off(mmu: MmuKind, mode: Mode, what: str) -> None:
    """After each turn a new vCPU with the same registers is taken for the same, and sees the same."""
    if mode in REFUSED.get(what, ()):
        return
    scene = scene_in(mmu, mode)
    name, bit = CHANGES[what]
    write = {"cr0": scene.cpu.mov_cr0, "cr4": scene.cpu.mov_cr4, "efer": scene.cpu.wrmsr_efer}[name]
    for _ in range(2):
        write(getattr(scene.cpu.vcpu.registers, name) ^ bit)
        other = Scene(scene.vm, scene.vm.add_cpu(scene.cpu.vcpu.registers))
        assert believes(scene.cpu) == believes(other.cpu)
        assert scene.reads(0x5000) == other.reads(0x5000)


def scene_in(mmu: MmuKind, mode: Mode) -> Scene:
    """A guest with that paging, to which 0x5000 is 0x6000; it has used that."""
    scene = guest("6.12", mmu)
    scene.vm.memory.write(0x5000, 55)
    scene.vm.memory.write(0x6000, 66)
    if mode is Mode.OFF:
        scene.cpu.read(0x5000)
        return scene
    tables = page_tables(scene.vm, mode, 40 * MIB, [])
    tables.map(0x5000, 0x6000)
    registers = paging_registers(mode, tables.root)
    scene.cpu.set_registers(replace(registers, efer=registers.efer | EFER_LME * mode.is_long))
    scene.cpu.read(0x5000)
    return scene


def test_write_protection_alone_keeps_the_root_of_nested_paging(kernel: str) -> None:
    """Roles of the TDP MMU's roots have CR0.WP in them whatever the guest's is; with another bit too, it starts
    again (x86.c: kvm_post_set_cr0)."""
    scene = guest(kernel, MmuKind.TDP, "4-level", mapped={0x5000: 0x6000}, mapped_flags=5)
    scene.reads(0x5000)
    cpu, root = scene.cpu, scene.cpu.vcpu.mmu.root.hpa
    with pytest.raises(PageFault):
        cpu.write(0x5000, 1)

    cpu.mov_cr0(cpu.vcpu.registers.cr0 & ~CR0_WP)

    assert cpu.vcpu.mmu.root.hpa == root
    cpu.write(0x5000, 1)
    assert not cpu.vcpu.mmu.cpu_role.base.cr0_wp


def test_smm_and_back(kernel: str, mmu: MmuKind) -> None:
    """Without paging, in memory of its own; afterwards the guest's registers are as they were."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: 0x6000})
    scene.vm.add_memory(0, MIB, as_id=1)
    scene.vm.memory.write(0x6000, 66)
    scene.reads(0x5000)
    before = scene.cpu.vcpu.registers

    scene.cpu.enter_smm()
    registers, role = scene.cpu.vcpu.registers, scene.cpu.vcpu.mmu.root_role
    seen = scene.reads(0x5000)
    scene.cpu.rsm()

    assert (registers.mode, registers.cr0 & CR0_PE, registers.cr4, registers.efer) == (Mode.OFF, 0, 0, 0)
    assert registers == replace(before, cr0=before.cr0 & ~(CR0_PE | CR0_PG), cr4=0, efer=0)
    assert (role.smm, seen) == (1, 0)
    assert (scene.cpu.vcpu.registers, scene.reads(0x5000)) == (before, 66)
    assert scene.cpu.vcpu.mmu.root_role.smm == 0
