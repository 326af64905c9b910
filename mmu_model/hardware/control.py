"""Writes to the control registers: what is refused, what changes, and what the processor then forgets.

Each function takes the registers as they are and a value, and says what becomes of it; it changes nothing.
Values that cannot be together are refused by :class:`~mmu_model.hardware.registers.Registers`, changes here.
SDM vol. 3, 4.10.4.1 lists the invalidations, 4.4.1 the loads of the PDPTE registers, vol. 2 (MOV to CR) the
refusals.
"""

from dataclasses import replace
from typing import Final, NamedTuple

from mmu_model.hardware.faults import GeneralProtection
from mmu_model.hardware.registers import (
    CR0_PG,
    CR3_PCID,
    CR4_LA57,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PGE,
    CR4_PSE,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    Registers,
)
from mmu_model.hardware.tlb import Selection

CR3_NO_FLUSH: Final = 1 << 63

_CR0_LOADS_PDPTES: Final = CR0_PG | 3 << 29
_CR4_LOADS_PDPTES: Final = CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP


class Change(NamedTuple):
    """What a write does: the new registers, what is forgotten (None: nothing), whether PDPTEs are loaded.

    The VPID of the selection is the current one, which the processor fills in.
    """

    registers: Registers
    forgets: Selection | None
    loads_pdptes: bool


_EVERYTHING: Final = Selection()


def mov_cr0(registers: Registers, value: int) -> Change:
    """MOV to CR0."""
    turned_off = registers.cr0 & ~value & CR0_PG
    efer = registers.efer & ~EFER_LMA
    if value & CR0_PG and registers.efer & (EFER_LME | EFER_LMA):
        efer |= EFER_LMA
    changed = replace(registers, cr0=value, efer=efer)
    loads = bool((value ^ registers.cr0) & _CR0_LOADS_PDPTES)
    return Change(changed, _EVERYTHING if turned_off else None, loads)


def mov_cr3(registers: Registers, value: int) -> Change:
    """MOV to CR3. With CR4.PCIDE, bit 63 of the value asks to forget nothing; it is not stored."""
    keep = bool(registers.cr4 & CR4_PCIDE and value & CR3_NO_FLUSH)
    changed = replace(registers, cr3=value & ~CR3_NO_FLUSH if registers.cr4 & CR4_PCIDE else value)
    return Change(changed, None if keep else Selection(pcid=changed.pcid, keep_global=True), True)


def mov_cr4(registers: Registers, value: int) -> Change:
    """MOV to CR4."""
    turned_on, turned_off = value & ~registers.cr4, registers.cr4 & ~value
    if registers.mode.is_long and (turned_on | turned_off) & CR4_LA57:
        raise GeneralProtection("CR4.LA57 changed in long mode")
    if turned_on & CR4_PCIDE and registers.cr3 & CR3_PCID:
        raise GeneralProtection("CR4.PCIDE set while bits 11:0 of CR3 are not 0")
    forgets = None
    if (turned_on | turned_off) & CR4_PGE or turned_off & CR4_PCIDE:
        forgets = _EVERYTHING
    elif (turned_on | turned_off) & CR4_PAE or turned_on & CR4_SMEP:
        forgets = Selection(pcid=registers.pcid)
    loads = bool((turned_on | turned_off) & _CR4_LOADS_PDPTES)
    return Change(replace(registers, cr4=value), forgets, loads)


def wrmsr_efer(registers: Registers, value: int) -> Change:
    """WRMSR to IA32_EFER. LMA cannot be written, and LME not while paging is on; nothing is forgotten."""
    if registers.cr0 & CR0_PG and (value ^ registers.efer) & EFER_LME:
        raise GeneralProtection("EFER.LME changed while CR0.PG is 1")
    efer = value & ~EFER_LMA | registers.efer & EFER_LMA
    return Change(replace(registers, efer=efer), None, False)
