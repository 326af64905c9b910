"""The control registers a scenario starts with (SDM Vol. 3, 2.5 and 4.1; EFER: APM Vol. 2, 3.1.7)."""

from __future__ import annotations

from dataclasses import dataclass

from .schema import Mode, Scenario

CR0_PE, CR0_MP, CR0_ET, CR0_NE, CR0_WP, CR0_PG = 1, 1 << 1, 1 << 4, 1 << 5, 1 << 16, 1 << 31
CR4_PSE, CR4_PAE, CR4_PGE, CR4_LA57, CR4_SMEP, CR4_SMAP = 1 << 4, 1 << 5, 1 << 7, 1 << 12, 1 << 20, 1 << 21
EFER_SCE, EFER_LME, EFER_LMA, EFER_NX, EFER_SVME = 1, 1 << 8, 1 << 10, 1 << 11, 1 << 12

MODE_CR4 = {
    Mode.REAL: 0,
    Mode.PROTECTED: 0,
    Mode.PAGING_32: CR4_PSE,
    Mode.PAE: CR4_PAE,
    Mode.LEVEL_4: CR4_PAE,
    Mode.LEVEL_5: CR4_PAE | CR4_LA57,
}
BITS = {
    "cr0.wp": CR0_WP,
    "cr4.smep": CR4_SMEP,
    "cr4.smap": CR4_SMAP,
    "cr4.pge": CR4_PGE,
    "efer.nx": EFER_NX,
}


@dataclass(frozen=True, slots=True)
class Registers:
    """What decides how the guest translates addresses."""

    cr0: int
    cr3: int
    cr4: int
    efer: int


def initial_registers(scenario: Scenario, cr3: int) -> Registers:
    """The registers for the scenario's mode and CPU."""
    mode, cpu = scenario.mode, scenario.cpu
    cr0 = CR0_ET | CR0_NE
    if mode is not Mode.REAL:
        cr0 |= CR0_PE | CR0_MP
    if mode.paging:
        cr0 |= CR0_PG | (CR0_WP if cpu.wp else 0)
    cr4 = MODE_CR4[mode] | (CR4_SMEP if cpu.smep else 0) | (CR4_SMAP if cpu.smap else 0)
    efer = EFER_SCE | (EFER_NX if cpu.nx and mode.paging else 0)
    efer |= EFER_LME | EFER_LMA if mode.long else 0
    efer |= EFER_SVME if scenario.nested else 0
    return Registers(cr0, cr3, cr4, efer)
