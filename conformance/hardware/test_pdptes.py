"""PAE paging: the PDPTE registers."""

import pytest

from conformance.hardware.machine import MAXPHYADDR, Machine
from mmu_model.hardware import (
    ERROR_US,
    GeneralProtection,
    Kind,
    LinearPaging,
    Mode,
    PageFault,
    Translation,
    access,
    load_pdptes,
    walk,
)
from mmu_model.hardware.formats import fields

USER_READ = access(Kind.READ, user=True)
VA = 0xC000_5000
PDPTE = 3


def mapped() -> Machine:
    machine = Machine(Mode.PAE)
    machine.tables.map(VA, 0x8000_0000)
    return machine


def test_reserved_bits_raise_general_protection_when_cr3_is_loaded() -> None:
    reserved = [field for field in fields("PAE PDPTE", MAXPHYADDR) if field.name == "reserved"]
    bits = [bit for field in reserved for bit in range(field.low, field.high + 1)]
    assert {1, 2, 5, 6, 7, 8, 46, 63} <= set(bits)
    for bit in bits:
        machine = mapped()
        machine.set_bits(VA, PDPTE, 1 << bit)
        with pytest.raises(GeneralProtection, match="PDPTE3"):
            load_pdptes(machine.memory, machine.registers())


def test_reserved_bits_of_an_absent_pdpte_do_not_matter() -> None:
    machine = mapped()
    machine.set_bits(VA, PDPTE, 0x1E6)
    machine.clear_bits(VA, PDPTE, 1)
    result = machine.walk(VA, USER_READ)
    assert isinstance(result, PageFault)
    assert result.error_code == ERROR_US


def test_the_registers_are_used_until_cr3_is_loaded_again() -> None:
    machine = mapped()
    loaded = load_pdptes(machine.memory, machine.registers())
    machine.clear_bits(VA, PDPTE, 1)
    assert isinstance(
        walk(machine.memory, LinearPaging(machine.registers(), loaded), USER_READ, VA), Translation
    )
    assert isinstance(machine.walk(VA, USER_READ), PageFault)


def test_the_root_is_aligned_to_32_bytes() -> None:
    """SDM 4.4.1: bits 31:5 of CR3."""
    machine = mapped()
    pdpte = machine.entry(VA, PDPTE)
    machine.memory.write(0x9000 + 32 + 3 * 8, pdpte)
    machine.tables.root = 0x9000 + 32 + 31
    assert isinstance(machine.walk(VA, USER_READ), Translation)
