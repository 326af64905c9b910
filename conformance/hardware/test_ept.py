"""EPT: one rule of the SDM a test. Vol. 3, 29.3 (the mechanism) and 28.2.1 (the exit qualification)."""

from dataclasses import replace

import pytest

from conformance.hardware.guest import GPA, HOST_OFFSET, VA, EptGuest
from conformance.hardware.machine import MAXPHYADDR
from conformance.looking import CountedWords
from mmu_model.hardware import (
    Access,
    EptMisconfiguration,
    EptViolation,
    ExtendedPaging,
    GeneralProtection,
    Kind,
    LogicalProcessor,
    Mode,
    NestedTranslation,
    PageFault,
    access,
    walk,
    walk_nested,
)
from mmu_model.hardware.formats import EPT_LEVELS, fields
from mmu_model.hardware.nested import PAGE_ACCESS
from mmu_model.hardware.pdptes import load_paging

READ, WRITE, FETCH = (access(kind) for kind in Kind)
R, W, X = 1, 2, 4
EPT_A, EPT_D = 1 << 8, 1 << 9
A, D = 1 << 5, 1 << 6
LINEAR, PAGE = 1 << 7, 1 << 8
TYPE = 7 << 3

HOST_MODES = [Mode.FOUR_LEVEL, Mode.FIVE_LEVEL]


def violation(result: object) -> tuple[int, int]:
    assert isinstance(result, EptViolation), result
    return result.exit_qualification, result.gpa


@pytest.mark.parametrize("flags", [False, True], ids=["no flags", "flags"])
@pytest.mark.parametrize("host_mode", HOST_MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.value)
def test_every_guest_mode_over_both_walk_lengths(mode: Mode, host_mode: Mode, flags: bool) -> None:
    result = EptGuest(mode, host_mode, flags=flags).walk(WRITE, VA | 0x18)
    assert isinstance(result, NestedTranslation)
    gpa = (VA if mode is Mode.OFF else GPA) | 0x18
    assert (result.guest.address, result.host.address) == (gpa, gpa + HOST_OFFSET)


def test_the_memory_references_of_a_walk() -> None:
    guest = EptGuest(Mode.FOUR_LEVEL)
    counted = CountedWords(guest.memory)
    walk_nested(counted, load_paging(guest.memory, guest.registers, guest.paging), guest.paging, READ, VA)
    assert counted.reads == 24


# Violations: 29.3.3.2


@pytest.mark.parametrize("level", [1, 2, 3, 4])
@pytest.mark.parametrize(("how", "bit"), [(READ, R), (WRITE, W), (FETCH, X)], ids=["read", "write", "fetch"])
def test_an_entry_that_is_not_present_violates(level: int, how: Access, bit: int) -> None:
    """Bits 2:0 say what was attempted, 5:3 are 0, 7 and 8: the translation of a linear address."""
    guest = EptGuest(Mode.OFF)
    guest.change(VA, level=level, clear=R | W | X)
    assert violation(guest.walk(how, VA | 0x10)) == (bit | LINEAR | PAGE, VA | 0x10)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("how", "missing", "bit"), [(WRITE, W, W), (FETCH, X, X)], ids=["write to R-X", "fetch from RW-"]
)
def test_an_access_needs_its_bit_at_every_level(level: int, how: Access, missing: int, bit: int) -> None:
    """Bits 5:3 are the AND of bits 2:0 of all the entries used."""
    guest = EptGuest(Mode.OFF)
    guest.change(VA, level=level, clear=missing)
    permitted = (R | W | X) & ~missing
    assert violation(guest.walk(how)) == (bit | permitted << 3 | LINEAR | PAGE, VA)
    assert isinstance(guest.walk(READ), NestedTranslation)


def test_a_read_of_an_execute_only_page_violates() -> None:
    guest = EptGuest(Mode.OFF, exec_only=True)
    guest.change(VA, clear=R | W)
    assert violation(guest.walk(READ)) == (R | X << 3 | LINEAR | PAGE, VA)
    assert isinstance(guest.walk(FETCH), NestedTranslation)


def test_rights_narrow_from_level_to_level() -> None:
    guest = EptGuest(Mode.OFF)
    guest.change(VA, level=3, clear=W)
    guest.change(VA, level=1, clear=X)
    assert violation(guest.walk(WRITE)) == (W | R << 3 | LINEAR | PAGE, VA)


def test_with_flags_a_table_of_the_guest_is_read_and_written() -> None:
    """Table 28-7: with A/D flags for EPT such an access sets both bit 0 and bit 1."""
    guest = EptGuest(Mode.FOUR_LEVEL, flags=True)
    guest.change(guest.table_gpas[1], clear=W)
    qualification, _ = violation(guest.walk(FETCH))
    assert qualification == R | W | (R | X) << 3 | LINEAR


def test_a_table_of_the_guest_need_not_be_executable() -> None:
    guest = EptGuest(Mode.FOUR_LEVEL)
    guest.change(guest.table_gpas[0], clear=X)
    assert isinstance(guest.walk(FETCH), NestedTranslation)


def test_an_address_beyond_the_walk_length_violates() -> None:
    guest = EptGuest(Mode.FOUR_LEVEL)
    wide = ExtendedPaging(guest.host.root | 6 | 3 << 3, maxphyaddr=52)
    guest.memory.maxphyaddr = 52
    leaf = guest.own_entry()
    guest.memory.write(leaf, guest.memory.read(leaf) | 1 << 48)
    registers = replace(guest.registers, maxphyaddr=52)
    with pytest.raises(EptViolation) as caught:
        walk_nested(guest.memory, load_paging(guest.memory, registers, wide), wide, READ, VA)
    assert violation(caught.value) == (R | LINEAR | PAGE, GPA | 1 << 48)


@pytest.mark.parametrize(("host_mode", "width"), [(Mode.FOUR_LEVEL, 48), (Mode.FIVE_LEVEL, 57)])
def test_the_last_page_that_ept_reaches(host_mode: Mode, width: int) -> None:
    """It is mapped as any other; the one after it is not there, whatever the tables say."""
    guest = EptGuest(Mode.OFF, host_mode)
    end = 1 << width
    for page in (end - 0x1000, 0):
        guest.host.map(page, GPA, flags=guest.leaf_flags)
    assert walk(guest.memory, guest.paging, PAGE_ACCESS[Kind.READ], end - 8).address == GPA | 0xFF8
    with pytest.raises(EptViolation) as caught:
        walk(guest.memory, guest.paging, PAGE_ACCESS[Kind.READ], end)
    assert violation(caught.value) == (R | LINEAR | PAGE, end)


# Misconfigurations: 29.3.3.1


@pytest.mark.parametrize("level", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [W, W | X])
def test_writable_and_not_readable_is_a_misconfiguration(level: int, bits: int) -> None:
    guest = EptGuest(Mode.OFF, exec_only=True)
    guest.change(VA, level=level, clear=R | W | X, add=bits)
    result = guest.walk(WRITE, VA | 5)
    assert isinstance(result, EptMisconfiguration)
    assert result.gpa == VA | 5


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_execute_only_is_a_misconfiguration_without_the_capability(level: int) -> None:
    guest = EptGuest(Mode.OFF)
    guest.change(VA, level=level, clear=R | W)
    assert isinstance(guest.walk(FETCH), EptMisconfiguration)


@pytest.mark.parametrize("memory_type", range(8))
def test_memory_types_2_3_and_7_are_misconfigurations(memory_type: int) -> None:
    guest = EptGuest(Mode.OFF)
    guest.change(VA, clear=TYPE, add=memory_type << 3)
    expected = EptMisconfiguration if memory_type in (2, 3, 7) else NestedTranslation
    assert isinstance(guest.walk(READ), expected)


@pytest.mark.parametrize("host_mode", HOST_MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("page_level", [1, 2, 3])
def test_every_reserved_bit_is_a_misconfiguration(host_mode: Mode, page_level: int) -> None:
    tried = 0
    for level in EPT_LEVELS:
        if level.number < page_level or (level.number == 5 and host_mode is Mode.FOUR_LEVEL):
            continue
        name = level.page if level.number == page_level else level.table
        assert name is not None
        for field in fields(name, MAXPHYADDR):
            if field.name != "reserved":
                continue
            for bit in range(field.low, field.high + 1):
                guest = EptGuest(Mode.OFF, host_mode)
                guest.host.map(1 << 40, 1 << 32, page_level, 7 | 6 << 3)
                guest.change(1 << 40, level=level.number, add=1 << bit)
                paging = guest.paging
                with pytest.raises(EptMisconfiguration):
                    walk(guest.memory, paging, PAGE_ACCESS[Kind.READ], 1 << 40)
                tried += 1
    assert tried > 5


def test_a_misconfiguration_comes_before_a_violation_of_the_same_entry() -> None:
    guest = EptGuest(Mode.OFF)
    guest.change(VA, clear=R | X)
    assert isinstance(guest.walk(FETCH), EptMisconfiguration)


def test_an_entry_that_is_not_present_is_not_looked_at() -> None:
    guest = EptGuest(Mode.OFF)
    guest.change(VA, clear=R | W | X, add=1 << 51 | TYPE)
    assert isinstance(guest.walk(READ), EptViolation)


# Accessed and dirty flags: 29.3.5


# PDPTEs of a guest with PAE paging: 29.3.5, 28.2.1


def test_loading_the_pdptes_is_a_read() -> None:
    guest = EptGuest(Mode.PAE, flags=True)
    load_paging(guest.memory, guest.registers, guest.paging)
    assert guest.entry(guest.table_gpas[0]) & (EPT_A | EPT_D) == EPT_A
    guest.change(guest.table_gpas[0], clear=W | X)
    load_paging(guest.memory, guest.registers, guest.paging)


def test_a_violation_while_loading_the_pdptes_has_no_linear_address() -> None:
    guest = EptGuest(Mode.PAE)
    root = guest.own.tables.root
    guest.change(root, clear=R | W | X)
    assert violation(guest.walk(WRITE)) == (R, root)


def test_reserved_bits_of_a_pdpte_raise_general_protection_in_the_guest() -> None:
    guest = EptGuest(Mode.PAE)
    guest.memory.write(guest.own_entry(3), guest.memory.read(guest.own_entry(3)) | 1 << 5)
    assert isinstance(guest.walk(READ), GeneralProtection)


# The rest


def test_the_guests_own_fault_is_no_exit() -> None:
    guest = EptGuest(Mode.FOUR_LEVEL)
    guest.memory.write(guest.own_entry(), 0)
    assert isinstance(guest.walk(READ), PageFault)


@pytest.mark.parametrize(
    ("eptp", "reason"),
    [
        (0x1000 | 3 << 3 | 1, "memory type"),
        (0x1000 | 2 << 3 | 6, "walk length"),
        (0x1000 | 3 << 3 | 6 | 1 << 8, "11:7"),
        (1 << 46 | 3 << 3 | 6, "above 45"),
    ],
)
def test_why_an_eptp_fails_vm_entry(eptp: int, reason: str) -> None:
    """The error says it."""
    with pytest.raises(ValueError, match=reason):
        ExtendedPaging(eptp, maxphyaddr=46)


def test_a_processor_runs_a_guest_under_ept() -> None:
    guest = EptGuest(Mode.PAE)
    cpu = LogicalProcessor(guest.memory)
    cpu.enter_guest(guest.registers, guest.paging)
    cpu.write(VA, 42)
    assert guest.memory.read(GPA + HOST_OFFSET) == 42
