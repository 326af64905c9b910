"""The word that KVM makes of a guest's mode, bit for bit: `union kvm_cpu_role` (kvm_host.h)."""

import pytest

from conformance.scenes import MIB, guest
from mmu_model.hardware import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PKE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_NXE,
    Registers,
)
from mmu_model.snapshot import MmuKind

PAGING = CR0_PE | CR0_PG
ALL_ACCESS, DIRECT, FOUR_BYTES = 7 << 8, 1 << 7, 1 << 4
NX, WP, SMEP_NOT_WP, SMAP_NOT_WP, SMM = 1 << 12, 1 << 13, 1 << 14, 1 << 15, 1 << 24
VALID, PSE, PKE, SMAP, SMEP, LA57, LMA = (1 << 32 + bit for bit in (0, 2, 3, 4, 5, 6, 7))

MODES = {
    "no paging": (0, 0, 0, ALL_ACCESS | DIRECT | VALID),
    "no paging, whatever else": (CR0_WP, CR4_SMEP | CR4_PSE | CR4_PAE, EFER_NXE, ALL_ACCESS | DIRECT | VALID),
    "32-bit": (PAGING, 0, 0, 2 | FOUR_BYTES | ALL_ACCESS | VALID),
    "32-bit, large pages": (PAGING | CR0_WP, CR4_PSE, 0, 2 | FOUR_BYTES | ALL_ACCESS | WP | VALID | PSE),
    "PAE": (PAGING, CR4_PAE, 0, 3 | ALL_ACCESS | VALID),
    "PAE, XD": (PAGING | CR0_WP, CR4_PAE | CR4_PSE, EFER_NXE, 3 | ALL_ACCESS | NX | WP | VALID | PSE),
    "PAE, bits of long mode": (PAGING, CR4_PAE | CR4_PKE | CR4_LA57, 0, 3 | ALL_ACCESS | VALID),
    "4-level": (PAGING, CR4_PAE, EFER_LMA, 4 | ALL_ACCESS | VALID | LMA),
    "4-level, keys": (PAGING, CR4_PAE | CR4_PKE, EFER_LMA, 4 | ALL_ACCESS | VALID | PKE | LMA),
    "4-level, SMEP": (
        PAGING,
        CR4_PAE | CR4_SMEP,
        EFER_LMA,
        4 | ALL_ACCESS | SMEP_NOT_WP | VALID | SMEP | LMA,
    ),
    "4-level, SMEP and WP": (
        PAGING | CR0_WP,
        CR4_PAE | CR4_SMEP,
        EFER_LMA,
        4 | ALL_ACCESS | WP | VALID | SMEP | LMA,
    ),
    "4-level, SMAP": (
        PAGING,
        CR4_PAE | CR4_SMAP,
        EFER_LMA,
        4 | ALL_ACCESS | SMAP_NOT_WP | VALID | SMAP | LMA,
    ),
    "4-level, SMAP and WP": (
        PAGING | CR0_WP,
        CR4_PAE | CR4_SMAP,
        EFER_LMA | EFER_NXE,
        4 | ALL_ACCESS | NX | WP | VALID | SMAP | LMA,
    ),
    "5-level": (PAGING, CR4_PAE | CR4_LA57, EFER_LMA, 5 | ALL_ACCESS | VALID | LA57 | LMA),
}
"""CR0, CR4, EFER, and the word."""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("smm", [False, True])
def test_the_word_of_a_mode(mode: str, smm: bool) -> None:
    """SMM is in bits 31:24."""
    cr0, cr4, efer, word = MODES[mode]
    scene = guest("6.12", MmuKind.SHADOW)
    scene.vm.add_memory(0, MIB, as_id=1)
    scene.cpu.vcpu.smm = smm

    scene.cpu.set_registers(Registers(cr0=cr0, cr3=0, cr4=cr4, efer=efer, maxphyaddr=46))

    assert scene.vm.snapshot().vcpus[0].root_mmu.cpu_role == word | SMM * smm


@pytest.mark.parametrize("mode", MODES)
def test_roots_that_shadow_the_mode(mode: str) -> None:
    """The processor runs the guest with PAE paging at least, and with EFER.NXE (kvm_init_shadow_mmu)."""
    cr0, cr4, efer, word = MODES[mode]
    scene = guest("6.12", MmuKind.SHADOW)

    scene.cpu.set_registers(Registers(cr0=cr0, cr3=0, cr4=cr4, efer=efer, maxphyaddr=46))

    role = scene.vm.snapshot().vcpus[0].root_mmu.root_role
    assert role & 15 == max(word & 15, 3)
    assert role & ~15 == word & 0xFFFF_FFF0 | NX


@pytest.mark.parametrize("mode", MODES)
def test_roots_that_map_its_memory(mode: str) -> None:
    """The word is the same. Under nested paging nothing of the mode counts (kvm_calc_tdp_mmu_root_page_role)."""
    cr0, cr4, efer, word = MODES[mode]
    scene = guest("6.12", MmuKind.TDP)

    scene.cpu.set_registers(Registers(cr0=cr0, cr3=0, cr4=cr4, efer=efer, maxphyaddr=46))

    mmu = scene.vm.snapshot().vcpus[0].root_mmu
    assert mmu.cpu_role == word
    assert mmu.root_role == 4 | DIRECT | ALL_ACCESS | NX | WP
