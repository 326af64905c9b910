"""What the processor reads around the interpreter: descriptor tables, the TSS, the nested guest's VMCB.

GDT, IDT and TSS share one page (``layout.DESCRIPTORS``). SDM Vol. 3, 3.4.5, 6.11, 6.14.1, 7.2; for the VMCB
APM Vol. 2, appendix B.
"""

from __future__ import annotations

from enum import IntEnum

from mmu_model.scenario import Program, Scenario
from mmu_model.scenario.layout import (
    DESCRIPTORS,
    IO_BITMAP,
    MSR_BITMAP,
    STACK_TOP,
    VMCB,
)
from mmu_model.scenario.registers import EFER_LMA, EFER_SVME
from mmu_model.scenario.tables import GuestTables


class Entry(IntEnum):
    """Places in the interpreter's page; interpreter.inc puts its code there."""

    HANDLERS = 0x40
    DONE = 0x800
    GENERAL_PROTECTION = 0x880
    PAGE_FAULT = 0x8A0


IDT, GDT, TSS = 0, 0x800, 0x900
IDT_LIMIT, GDT_LIMIT = 15 * 16 - 1, 4 * 8 - 1
CODE, DATA = 0x08, 0x10  # selectors
# SYSRET goes to code at DATA + 16 in long mode and at DATA else, SYSCALL comes back to CODE; 32-bit EIP last
STAR = DATA << 48 | CODE << 32 | Entry.DONE

CODE_64, CODE_32, FLAT_DATA = 0x00AF9B000000FFFF, 0x00CF9B000000FFFF, 0x00CF93000000FFFF
INTERRUPT_GATE = 0x8E00
VECTORS = {13: Entry.GENERAL_PROTECTION, 14: Entry.PAGE_FAULT}

VMCB_CODE_64, VMCB_CODE_32, VMCB_DATA = 0xA9B, 0xC9B, 0xC93


class Words(dict[int, int]):
    """Memory as 64-bit words, written in any width."""

    def put(self, address: int, value: int, size: int = 8) -> None:
        """``value`` at ``address``; it may cross two words."""
        for i, byte in enumerate(value.to_bytes(size, "little")):
            at, shift = (address + i) & ~7, 8 * ((address + i) & 7)
            self[at] = self.get(at, 0) | byte << shift


def descriptor_words(scenario: Scenario, program: Program) -> dict[int, int]:
    """Initial memory of the interpreter's pages, beside its code and its steps."""
    words = Words()
    is_long = bool(program.registers.efer & EFER_LMA)
    words.put(DESCRIPTORS + GDT + CODE, CODE_64 if is_long else CODE_32)
    words.put(DESCRIPTORS + GDT + DATA, FLAT_DATA)
    words.put(DESCRIPTORS + TSS + 4, STACK_TOP, 8 if is_long else 4)  # RSP0, or ESP0 and SS0
    if not is_long:
        words.put(DESCRIPTORS + TSS + 8, DATA, 2)
    for vector, handler in VECTORS.items():
        gate = DESCRIPTORS + IDT + vector * (16 if is_long else 8)
        words.put(gate, CODE << 16 | handler, 4)
        words.put(gate + 4, INTERRUPT_GATE, 4)
    if scenario.nested is not None:
        _vmcb(words, scenario, program)
    return words


def _vmcb(words: Words, scenario: Scenario, program: Program) -> None:
    """The nested guest: the interpreter again, in its own address space."""
    assert scenario.nested is not None
    registers, roots = program.registers, GuestTables(scenario).roots
    is_long = bool(registers.efer & EFER_LMA)
    words.put(VMCB + 0x010, 3, 4)  # intercept VMRUN (which VMRUN demands) and VMMCALL
    words.put(VMCB + 0x040, IO_BITMAP)
    words.put(VMCB + 0x048, MSR_BITMAP)
    words.put(VMCB + 0x058, 1, 4)  # ASID
    if scenario.nested.npt is not None:
        words.put(VMCB + 0x090, 1)  # NP_ENABLE
        words.put(VMCB + 0x0B0, roots[scenario.nested.npt])
    for segment in (0x400, 0x410, 0x420, 0x430):  # ES, CS, SS, DS
        code = VMCB_CODE_64 if is_long else VMCB_CODE_32
        words.put(VMCB + segment, CODE if segment == 0x410 else DATA, 2)
        words.put(VMCB + segment + 2, code if segment == 0x410 else VMCB_DATA, 2)
        words.put(VMCB + segment + 4, 0xFFFFFFFF, 4)
    for table, limit, base in ((0x460, GDT_LIMIT, GDT), (0x480, IDT_LIMIT, IDT)):
        words.put(VMCB + table + 4, limit, 4)
        words.put(VMCB + table + 8, DESCRIPTORS + base)
    words.put(VMCB + 0x4D0, registers.efer | EFER_SVME)
    words.put(VMCB + 0x548, registers.cr4)
    words.put(VMCB + 0x550, roots[scenario.nested.cr3])
    words.put(VMCB + 0x558, registers.cr0)
    words.put(VMCB + 0x560, 0x400)  # DR7
    words.put(VMCB + 0x568, 0xFFFF0FF0)  # DR6
    words.put(VMCB + 0x570, 2)  # RFLAGS
    words.put(VMCB + 0x5D8, STACK_TOP)  # RSP
    words.put(VMCB + 0x668, 0x0007040600070406)  # PAT
