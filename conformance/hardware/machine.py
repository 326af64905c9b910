"""A machine to try things on: memory, page tables, registers."""

from dataclasses import dataclass, field

import pytest

from mmu_model.hardware import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PSE,
    EFER_LMA,
    EFER_NXE,
    Access,
    Fault,
    LinearPaging,
    Mode,
    PageFault,
    PhysicalMemory,
    Registers,
    Translation,
    load_pdptes,
    walk,
)
from mmu_model.hardware.formats import LEVELS
from mmu_model.hardware.tables import PageTables, frames_from

MAXPHYADDR = 46
MODES = [mode for mode in Mode if mode is not Mode.OFF]
CR4 = {
    Mode.OFF: 0,
    Mode.THIRTY_TWO_BIT: CR4_PSE,
    Mode.PAE: CR4_PAE,
    Mode.FOUR_LEVEL: CR4_PAE,
    Mode.FIVE_LEVEL: CR4_PAE | CR4_LA57,
}


PAGE_LEVELS = [(mode, level.number) for mode in MODES for level in LEVELS[mode] if level.page]

by_mode_and_level = pytest.mark.parametrize(
    ("mode", "level"), PAGE_LEVELS, ids=[f"{mode.value} level {level}" for mode, level in PAGE_LEVELS]
)
"""Every size of page in every mode."""


def table_levels(mode: Mode) -> list[int]:
    """The levels whose entries govern rights and have flags, for a page of 4 KiB."""
    return [step.number for step in LEVELS[mode] if step.table != "PAE PDPTE"]


@dataclass
class Machine:
    """Page tables of one mode at 0x100000, and the registers that make the processor use them."""

    mode: Mode
    maxphyaddr: int = MAXPHYADDR
    memory: PhysicalMemory = field(init=False)
    tables: PageTables = field(init=False)

    def __post_init__(self) -> None:
        self.memory = PhysicalMemory(self.maxphyaddr)
        self.tables = PageTables(self.memory, self.mode, frames_from(0x100000))

    @property
    def entry_size(self) -> int:
        return 4 if self.mode is Mode.THIRTY_TWO_BIT else 8

    def registers(self, **changes: int) -> Registers:
        """NXE and WP on, nothing else that could deny anything; `cr0`, `cr4` are added to that."""
        pae = self.mode is not Mode.THIRTY_TWO_BIT
        return Registers(
            cr0=CR0_PE | CR0_PG | changes.pop("cr0", CR0_WP),
            cr3=self.tables.root,
            cr4=CR4[self.mode] | changes.pop("cr4", 0),
            efer=changes.pop("efer", EFER_NXE if pae else 0) | (EFER_LMA if self.mode.is_long else 0),
            maxphyaddr=self.maxphyaddr,
            **changes,  # type: ignore[arg-type]
        )

    def walk(self, address: int, access: Access, **changes: int) -> Translation | Fault:
        """The translation, or the fault instead of raising it."""
        registers = self.registers(**changes)
        try:
            pdptes = load_pdptes(self.memory, registers) if self.mode is Mode.PAE else None
            return walk(self.memory, LinearPaging(registers, pdptes), access, address)
        except Fault as fault:
            return fault

    def entry(self, address: int, level: int = 1) -> int:
        return self.memory.read(self.tables.entry_address(address, level), self.entry_size)

    def set_bits(self, address: int, level: int, bits: int) -> None:
        """Set bits in the entry of that level."""
        where = self.tables.entry_address(address, level)
        self.memory.write(where, self.memory.read(where, self.entry_size) | bits, self.entry_size)

    def clear_bits(self, address: int, level: int, bits: int) -> None:
        where = self.tables.entry_address(address, level)
        self.memory.write(where, self.memory.read(where, self.entry_size) & ~bits, self.entry_size)


VA, PAGE = 0x1234_5000, 0x8000_0000


def mapped(mode: Mode, level: int = 1, flags: int = 7) -> Machine:
    """A machine with a page of that level at VA, whose first byte is at PAGE."""
    machine = Machine(mode)
    machine.tables.map(VA, PAGE, level, flags)
    return machine


def error_code(result: object) -> int:
    """That of a page fault."""
    assert isinstance(result, PageFault)
    return result.error_code
