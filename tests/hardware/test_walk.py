"""The walk of linear addresses: where it leads, what it refuses, which flags it sets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmu_model.hardware import (
    ACCESSES,
    CR0_WP,
    CR4_PKE,
    CR4_PKS,
    CR4_SMAP,
    CR4_SMEP,
    EFER_NXE,
    ERROR_ID,
    ERROR_P,
    ERROR_PK,
    ERROR_RSVD,
    ERROR_US,
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
from tests.hardware.machine import MAXPHYADDR, MODES, Machine

P, W, U, A, D, PS, XD = 1, 2, 4, 1 << 5, 1 << 6, 1 << 7, 1 << 63
READ, WRITE, FETCH = (access(kind) for kind in Kind)
USER_READ, USER_WRITE, USER_FETCH = (access(kind, user=True) for kind in Kind)
IMPLICIT_READ = access(Kind.READ, implicit=True)
VA = 0x1234_5000
PAGE_LEVELS = [(mode, level.number) for mode in MODES for level in LEVELS[mode] if level.page]

by_mode_and_level = pytest.mark.parametrize(
    ("mode", "level"), PAGE_LEVELS, ids=[f"{mode.value} level {level}" for mode, level in PAGE_LEVELS]
)


def error_code(result: object) -> int:
    assert isinstance(result, PageFault)
    return result.error_code


def mapped(mode: Mode, level: int, flags: int = P | W | U) -> Machine:
    """A machine with a page of that level at VA; its first byte has the address 0x8000_0000."""
    machine = Machine(mode)
    machine.tables.map(VA, 0x8000_0000, level, flags)
    return machine


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


# Permissions: every rule of SDM 4.6.1 once


def table_levels(mode: Mode) -> list[int]:
    """The levels whose entries govern rights, for a page of 4 KiB."""
    return [step.number for step in LEVELS[mode] if step.table != "PAE PDPTE"]


def test_user_needs_u_at_every_level(machine: Machine) -> None:
    for level in table_levels(machine.mode):
        machine.tables.map(VA, 0x8000_0000)
        assert isinstance(machine.walk(VA, USER_READ), Translation)
        machine.clear_bits(VA, level, U)
        assert error_code(machine.walk(VA, USER_READ)) == ERROR_P | ERROR_US
        assert error_code(machine.walk(VA, USER_WRITE)) == ERROR_P | ERROR_US | ERROR_WR
        assert isinstance(machine.walk(VA, READ), Translation)
        machine.set_bits(VA, level, U)


def test_a_write_needs_w_at_every_level(machine: Machine) -> None:
    for level in table_levels(machine.mode):
        machine.tables.map(VA, 0x8000_0000)
        machine.clear_bits(VA, level, W)
        assert error_code(machine.walk(VA, USER_WRITE)) == ERROR_P | ERROR_WR | ERROR_US
        assert error_code(machine.walk(VA, WRITE)) == ERROR_P | ERROR_WR
        assert isinstance(machine.walk(VA, USER_READ), Translation)
        machine.set_bits(VA, level, W)


def test_without_wp_a_supervisor_writes_anywhere_a_user_does_not(machine: Machine) -> None:
    machine.tables.map(VA, 0x8000_0000, flags=P | U)
    assert isinstance(machine.walk(VA, WRITE, cr0=0), Translation)
    assert error_code(machine.walk(VA, USER_WRITE, cr0=0)) == ERROR_P | ERROR_WR | ERROR_US


def test_smep_forbids_a_supervisor_to_fetch_from_user_pages(machine: Machine) -> None:
    machine.tables.map(VA, 0x8000_0000)
    assert isinstance(machine.walk(VA, FETCH), Translation)
    assert error_code(machine.walk(VA, FETCH, cr4=CR4_SMEP)) == ERROR_P | ERROR_ID
    assert isinstance(machine.walk(VA, USER_FETCH, cr4=CR4_SMEP), Translation)
    machine.clear_bits(VA, 1, U)
    assert isinstance(machine.walk(VA, FETCH, cr4=CR4_SMEP), Translation)


def test_smap_forbids_a_supervisor_user_data_unless_ac(machine: Machine) -> None:
    machine.tables.map(VA, 0x8000_0000)
    assert error_code(machine.walk(VA, READ, cr4=CR4_SMAP)) == ERROR_P
    assert error_code(machine.walk(VA, WRITE, cr4=CR4_SMAP, cr0=0)) == ERROR_P | ERROR_WR
    assert isinstance(machine.walk(VA, WRITE, cr4=CR4_SMAP, ac=True), Translation)
    assert error_code(machine.walk(VA, IMPLICIT_READ, cr4=CR4_SMAP, ac=True)) == ERROR_P
    assert isinstance(machine.walk(VA, FETCH, cr4=CR4_SMAP), Translation)
    assert isinstance(machine.walk(VA, USER_READ, cr4=CR4_SMAP), Translation)


def test_ac_does_not_exempt_from_write_protection(machine: Machine) -> None:
    machine.tables.map(VA, 0x8000_0000, flags=P | U)
    assert error_code(machine.walk(VA, WRITE, cr4=CR4_SMAP, ac=True)) == ERROR_P | ERROR_WR
    assert isinstance(machine.walk(VA, WRITE, cr4=CR4_SMAP, ac=True, cr0=0), Translation)


@pytest.mark.parametrize(("nxe", "smep", "told"), [(0, 0, False), (0, 1, True), (1, 0, True), (1, 1, True)])
def test_a_fetch_is_told_with_nxe_or_smep(nxe: int, smep: int, told: bool) -> None:
    """SDM 4.7, I/D flag."""
    result = Machine(Mode.FOUR_LEVEL).walk(VA, FETCH, efer=nxe * EFER_NXE, cr4=smep * CR4_SMEP)
    assert error_code(result) == (ERROR_ID if told else 0)


def test_nxe_tells_no_fetch_in_32_bit_paging() -> None:
    assert error_code(Machine(Mode.THIRTY_TWO_BIT).walk(VA, FETCH, efer=EFER_NXE)) == 0


# Protection keys: SDM 4.6.2

KEY = 5
AD, WD = 1 << 2 * KEY, 2 << 2 * KEY


def keyed(flags: int = P | W | U, level: int = 1) -> Machine:
    machine = mapped(Mode.FOUR_LEVEL, level, flags)
    machine.set_bits(VA, level, KEY << 59)
    return machine


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize(
    ("how", "pkru", "cr0", "expected"),
    [
        (USER_READ, AD, CR0_WP, ERROR_P | ERROR_US | ERROR_PK),
        (READ, AD, CR0_WP, ERROR_P | ERROR_PK),
        (USER_WRITE, WD, 0, ERROR_P | ERROR_US | ERROR_WR | ERROR_PK),
        (WRITE, WD, CR0_WP, ERROR_P | ERROR_WR | ERROR_PK),
        (WRITE, WD, 0, None),
        (WRITE, AD, 0, ERROR_P | ERROR_WR | ERROR_PK),
        (USER_READ, WD, CR0_WP, None),
        (USER_FETCH, AD | WD, CR0_WP, None),
        (USER_READ, ~(AD | WD) & 0xFFFF_FFFF, CR0_WP, None),
    ],
)
def test_pkru_governs_data_at_user_addresses(
    level: int, how: Access, pkru: int, cr0: int, expected: int | None
) -> None:
    result = keyed(level=level).walk(VA, how, cr4=CR4_PKE, pkru=pkru, cr0=cr0)
    assert (error_code(result) if expected is not None else None) == expected
    assert isinstance(keyed(level=level).walk(VA, how, pkru=pkru, cr0=cr0), Translation), "without CR4.PKE"


def test_pkru_does_not_govern_supervisor_addresses_pkrs_does() -> None:
    machine = keyed(P | W)
    assert isinstance(machine.walk(VA, READ, cr4=CR4_PKE, pkru=AD), Translation)
    assert error_code(machine.walk(VA, READ, cr4=CR4_PKS, pkrs=AD)) == ERROR_P | ERROR_PK
    assert error_code(machine.walk(VA, WRITE, cr4=CR4_PKS, pkrs=WD)) == ERROR_P | ERROR_PK | ERROR_WR
    assert isinstance(machine.walk(VA, WRITE, cr4=CR4_PKS, pkrs=WD, cr0=0), Translation)
    assert isinstance(keyed().walk(VA, READ, cr4=CR4_PKS, pkrs=AD), Translation)


def test_pk_is_told_beside_another_reason() -> None:
    """SDM 4.7: the PK flag does not depend on whether the access was denied for another reason as well."""
    result = keyed(P | U).walk(VA, USER_WRITE, cr4=CR4_PKE, pkru=WD)
    assert error_code(result) == ERROR_P | ERROR_US | ERROR_WR | ERROR_PK
    assert error_code(keyed().walk(VA, READ, cr4=CR4_PKE | CR4_SMAP, pkru=AD)) == ERROR_P | ERROR_PK


def test_keys_are_only_of_long_mode() -> None:
    machine = mapped(Mode.PAE, 1)
    assert isinstance(machine.walk(VA, USER_READ, cr4=CR4_PKE, pkru=0xFFFF_FFFF), Translation)


# Accessed and dirty flags: SDM 4.8


@by_mode_and_level
def test_a_read_sets_accessed_at_every_level_and_dirty_nowhere(mode: Mode, level: int) -> None:
    machine = mapped(mode, level)
    machine.walk(VA, READ)
    for number in table_levels(mode):
        if number >= level:
            assert machine.entry(VA, number) & (A | D) == A


@by_mode_and_level
def test_a_write_sets_dirty_in_the_entry_that_maps_the_page(mode: Mode, level: int) -> None:
    machine = mapped(mode, level)
    result = machine.walk(VA, WRITE)
    assert isinstance(result, Translation)
    assert result.entry == machine.entry(VA, level)
    for number in table_levels(mode):
        if number >= level:
            assert machine.entry(VA, number) & (A | D) == (A | D if number == level else A)


@by_mode_and_level
def test_a_denied_access_marks_the_tables_it_passed_but_not_the_page(mode: Mode, level: int) -> None:
    machine = mapped(mode, level, P | W)
    assert error_code(machine.walk(VA, USER_WRITE)) == ERROR_P | ERROR_US | ERROR_WR
    for number in table_levels(mode):
        if number >= level:
            assert machine.entry(VA, number) & (A | D) == (0 if number == level else A)


def test_a_pdpte_of_pae_has_no_flags() -> None:
    machine = mapped(Mode.PAE, 1)
    before = machine.entry(VA, 3)
    machine.walk(VA, WRITE)
    assert machine.entry(VA, 3) == before


class OtherProcessor(PhysicalMemory):
    """A memory in which another processor takes the page away just before the flags are set."""

    victim = 0

    def compare_exchange(self, address: int, expected: int, value: int, size: int = 8) -> bool:
        if address == self.victim:
            self.write(address, 0, size)
        return super().compare_exchange(address, expected, value, size)


@pytest.mark.parametrize("level", [1, 2])
def test_an_entry_that_changes_under_the_walk_is_walked_again(level: int) -> None:
    machine = Machine(Mode.FOUR_LEVEL)
    memory = OtherProcessor(MAXPHYADDR)
    machine.memory = memory
    machine.tables = type(machine.tables)(memory, machine.mode, iter(range(0x10_0000, 0x20_0000, 0x1000)))
    machine.tables.map(VA, 0x8000_0000)
    memory.victim = machine.tables.entry_address(VA, level)
    assert error_code(machine.walk(VA, READ)) == 0
