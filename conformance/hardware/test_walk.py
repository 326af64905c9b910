"""The walk of linear addresses: where it leads, what it refuses, which flags it sets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.hardware.machine import (
    MAXPHYADDR,
    PAGE_LEVELS,
    VA,
    Machine,
    by_mode_and_level,
    error_code,
    mapped,
)
from mmu_model.hardware import (
    ACCESSES,
    ERROR_ID,
    ERROR_P,
    ERROR_RSVD,
    ERROR_WR,
    Access,
    GeneralProtection,
    Kind,
    LinearPaging,
    Mode,
    PageFault,
    PhysicalMemory,
    Registers,
    Translation,
    access,
    walk,
)
from mmu_model.hardware.formats import LEVELS, fields

P, W, U, A, PS, XD = 1, 2, 4, 1 << 5, 1 << 7, 1 << 63
READ, WRITE, FETCH = (access(kind) for kind in Kind)
USER_WRITE = access(Kind.WRITE, user=True)


@by_mode_and_level
def test_a_mapped_address_leads_to_its_page(mode: Mode, level: int) -> None:
    shift = next(step.low for step in LEVELS[mode] if step.number == level)
    result = mapped(mode, level).walk(VA | 0xABC, READ)
    assert isinstance(result, Translation)
    assert result.address == 0x8000_0000 | (VA | 0xABC) & (1 << shift) - 1
    assert (result.level, result.shift) == (level, shift)


@given(st.data())
def test_any_page_anywhere(data: st.DataObject) -> None:
    mode, level = data.draw(st.sampled_from(PAGE_LEVELS))
    shift = next(step.low for step in LEVELS[mode] if step.number == level)
    wide = 32 if mode in (Mode.THIRTY_TWO_BIT, Mode.PAE) else {Mode.FOUR_LEVEL: 48, Mode.FIVE_LEVEL: 57}[mode]
    address = data.draw(st.integers(0, 2**wide - 1))
    if mode.is_long and address >> wide - 1:
        address |= 2**64 - 2**wide
    page = data.draw(st.integers(0, 2 ** ((32 if mode is Mode.THIRTY_TWO_BIT else MAXPHYADDR) - shift) - 1))
    machine = Machine(mode)
    machine.tables.map(address, page << shift, level)
    result = machine.walk(address, USER_WRITE)
    assert isinstance(result, Translation)
    assert result.address == page << shift | address & (1 << shift) - 1


def test_pse36_reaches_forty_bits() -> None:
    """SDM 4.3: bits 20:13 of the PDE are bits 39:32 of the address of a 4-MByte page."""
    machine = Machine(Mode.THIRTY_TWO_BIT)
    machine.tables.map(0x0040_0000, 0x0080_0000 | 0x3F << 13, level=2)
    result = machine.walk(0x0041_2345, READ)
    assert isinstance(result, Translation)
    assert result.address == 0x3F_0081_2345


def test_without_pse_bit_7_is_ignored() -> None:
    """SDM 4.3: with CR4.PSE = 0 every PDE references a page table."""
    machine = Machine(Mode.THIRTY_TWO_BIT)
    machine.tables.map(VA, 0x8000_0000)
    machine.set_bits(VA, 2, PS)
    registers = Registers(cr0=0x8000_0001, cr3=machine.tables.root, maxphyaddr=MAXPHYADDR)
    assert walk(machine.memory, LinearPaging(registers), READ, VA).address == 0x8000_0000


def test_paging_off_is_identity() -> None:
    assert walk(PhysicalMemory(), LinearPaging(Registers()), WRITE, 0xFFFF_FFF8).address == 0xFFFF_FFF8


@pytest.mark.parametrize("mode", [Mode.OFF, Mode.THIRTY_TWO_BIT, Mode.PAE])
def test_a_linear_address_outside_long_mode_has_32_bits(mode: Mode) -> None:
    registers = Registers(cr0=0x8000_0001 if mode is not Mode.OFF else 0, cr4=0x20 if mode is Mode.PAE else 0)
    with pytest.raises(ValueError, match="32 bits"):
        walk(PhysicalMemory(), LinearPaging(registers), READ, 1 << 32)


@pytest.mark.parametrize(
    ("mode", "address", "canonical"),
    [
        (Mode.FOUR_LEVEL, 0x0000_7FFF_FFFF_FFFF, True),
        (Mode.FOUR_LEVEL, 0x0000_8000_0000_0000, False),
        (Mode.FOUR_LEVEL, 0xFFFF_7FFF_FFFF_FFFF, False),
        (Mode.FOUR_LEVEL, 0xFFFF_8000_0000_0000, True),
        (Mode.FIVE_LEVEL, 0x00FF_FFFF_FFFF_FFFF, True),
        (Mode.FIVE_LEVEL, 0x0100_0000_0000_0000, False),
        (Mode.FIVE_LEVEL, 0xFEFF_FFFF_FFFF_FFFF, False),
        (Mode.FIVE_LEVEL, 0xFF00_0000_0000_0000, True),
    ],
)
def test_an_address_that_is_not_canonical_raises_general_protection(
    mode: Mode, address: int, canonical: bool
) -> None:
    result = Machine(mode).walk(address, READ)
    assert isinstance(result, PageFault if canonical else GeneralProtection)


# Not present, and reserved bits


@by_mode_and_level
@pytest.mark.parametrize("how", ACCESSES, ids=str)
def test_an_absent_entry_at_any_level(mode: Mode, level: int, how: Access) -> None:
    """The other bits of an entry that is not present, and those of the entries below it, mean nothing."""
    for absent in range(level, LEVELS[mode][0].number + 1):
        if mode is Mode.PAE and absent == 3:
            continue  # test_pdptes.py
        machine = mapped(mode, level)
        machine.set_bits(VA, absent, 0xFFFF_FFFE)
        machine.clear_bits(VA, absent, P)
        result = machine.walk(VA, how)
        assert error_code(result) == how.error_code & ~(ERROR_ID if mode is Mode.THIRTY_TWO_BIT else 0)
        assert isinstance(result, PageFault)
        assert result.cr2 == VA


def reserved_bits() -> list[tuple[Mode, int, int, int]]:
    """(mode, level of the page, level of the entry, bit) for every reserved bit of every format."""
    cases: list[tuple[Mode, int, int, int]] = []
    for mode, level in PAGE_LEVELS:
        for step in LEVELS[mode]:
            if step.number < level or (mode is Mode.PAE and step.number == 3):
                continue
            name = step.page if step.number == level else step.table
            assert name is not None
            for field in fields(name, MAXPHYADDR):
                if field.name == "reserved":
                    cases += [(mode, level, step.number, bit) for bit in range(field.low, field.high + 1)]
    return cases


def test_every_reserved_bit_faults() -> None:
    """P and RSVD are set in the error code, and no flag is set at that level or below."""
    cases = reserved_bits()
    assert len(cases) > 200
    for mode, level, entry_level, bit in cases:
        machine = mapped(mode, level)
        machine.set_bits(VA, entry_level, 1 << bit)
        assert error_code(machine.walk(VA, WRITE)) == ERROR_P | ERROR_RSVD | ERROR_WR, (
            mode,
            entry_level,
            bit,
        )
        assert not machine.entry(VA, entry_level) & A


@by_mode_and_level
def test_bits_that_are_ignored_do_not_matter(mode: Mode, level: int) -> None:
    for step in LEVELS[mode]:
        if step.number < level:
            continue
        name = step.page if step.number == level else step.table
        assert name is not None
        for field in fields(name, MAXPHYADDR):
            if field.name in ("-", "key", "PAT", "G", "PCD", "PWT"):
                machine = mapped(mode, level)
                machine.set_bits(VA, step.number, field.mask)
                assert isinstance(machine.walk(VA, USER_WRITE), Translation), (name, field)


@pytest.mark.parametrize("mode", [Mode.PAE, Mode.FOUR_LEVEL, Mode.FIVE_LEVEL])
def test_xd_is_reserved_without_nxe(mode: Mode) -> None:
    for level in (1, 2):
        machine = mapped(mode, 1)
        machine.set_bits(VA, level, XD)
        assert isinstance(machine.walk(VA, READ), Translation)
        assert error_code(machine.walk(VA, FETCH)) == ERROR_P | ERROR_ID
        assert error_code(machine.walk(VA, READ, efer=0)) == ERROR_P | ERROR_RSVD
