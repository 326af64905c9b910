"""Nested paging: the guest's walk over the host's tables, and the exits."""

import pytest

from conformance.hardware.guest import GPA, HOST_OFFSET, VA, NptGuest
from conformance.hardware.machine import MODES
from conformance.looking import CountedWords
from mmu_model.hardware import (
    CR0_PE,
    CR0_PG,
    CR4_LA57,
    CR4_PAE,
    CR4_PSE,
    EFER_LMA,
    ERROR_ID,
    ERROR_P,
    ERROR_RSVD,
    ERROR_US,
    ERROR_WR,
    EXIT_INFO_PAGE,
    EXIT_INFO_TABLE,
    Access,
    Kind,
    LinearPaging,
    LogicalProcessor,
    Mode,
    NestedPageFault,
    NestedPaging,
    NestedTranslation,
    PageFault,
    PhysicalMemory,
    Registers,
    access,
    walk,
    walk_nested,
)
from mmu_model.hardware.nested import PAGE_ACCESS

P, W, U, A, D, XD = 1, 2, 4, 1 << 5, 1 << 6, 1 << 63
READ, WRITE, FETCH = (access(kind) for kind in Kind)


def exit_info(result: object) -> tuple[int, int]:
    assert isinstance(result, NestedPageFault)
    assert result.gpa == result.exit_info_2
    return result.exit_info_1, result.exit_info_2


@pytest.mark.parametrize("host_mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.value)
def test_every_guest_mode_over_every_host_mode(mode: Mode, host_mode: Mode) -> None:
    result = NptGuest(mode, host_mode).walk(WRITE, VA | 0x18)
    assert isinstance(result, NestedTranslation)
    gpa = (VA if mode is Mode.OFF else GPA) | 0x18
    assert (result.guest.address, result.host.address) == (gpa, gpa + HOST_OFFSET)


@pytest.mark.parametrize(
    ("mode", "host_mode", "references"),
    [
        (Mode.FOUR_LEVEL, Mode.FOUR_LEVEL, 24),
        (Mode.FIVE_LEVEL, Mode.FIVE_LEVEL, 35),
        (Mode.FIVE_LEVEL, Mode.FOUR_LEVEL, 29),
        (Mode.PAE, Mode.FOUR_LEVEL, 19),
        (Mode.THIRTY_TWO_BIT, Mode.FOUR_LEVEL, 14),
        (Mode.OFF, Mode.FOUR_LEVEL, 4),
    ],
)
def test_the_memory_references_of_a_walk(mode: Mode, host_mode: Mode, references: int) -> None:
    """g levels over h levels: g entries, and h entries for each of them and for the page."""
    guest = NptGuest(mode, host_mode)
    counted = CountedWords(guest.memory)
    walk_nested(counted, LinearPaging(guest.registers), guest.paging, READ, VA)
    assert counted.reads == references


@pytest.mark.parametrize("how", [READ, WRITE, FETCH], ids=lambda how: how.kind.value)
@pytest.mark.parametrize("user", [False, True])
def test_a_page_that_is_not_present(how: Access, user: bool) -> None:
    """EXITINFO1: user in any case, the access's kind, bit 32. EXITINFO2: the guest-physical address."""
    guest = NptGuest(Mode.FOUR_LEVEL)
    guest.change(GPA, clear=P)
    result = guest.walk(access(how.kind, user=user), VA | 0x123)
    kind = how.error_code & (ERROR_WR | ERROR_ID)
    assert exit_info(result) == (ERROR_US | kind | EXIT_INFO_PAGE, GPA | 0x123)


def test_host_nx_of_a_table_does_not_matter() -> None:
    guest = NptGuest(Mode.FOUR_LEVEL)
    guest.change(guest.table_gpas[0], add=XD)
    assert isinstance(guest.walk(FETCH), NestedTranslation)


def test_without_host_nxe_a_fetch_is_not_told_and_nx_is_reserved() -> None:
    guest = NptGuest(Mode.FOUR_LEVEL, host_nxe=False)
    guest.change(GPA, clear=P)
    assert exit_info(guest.walk(FETCH))[0] == ERROR_US | EXIT_INFO_PAGE
    guest.change(GPA, add=P | XD)
    assert exit_info(guest.walk(READ))[0] == ERROR_P | ERROR_RSVD | ERROR_US | EXIT_INFO_PAGE


def test_nested_accessed_and_dirty() -> None:
    """A read of the page leaves it clean; the tables are dirty, for reading them counts as a write."""
    guest = NptGuest(Mode.FOUR_LEVEL)
    guest.walk(READ)
    assert guest.entry(GPA) & (A | D) == A
    for table in guest.table_gpas:
        assert guest.entry(table) & (A | D) == A | D
    guest.walk(WRITE)
    assert guest.entry(GPA) & (A | D) == A | D


def test_the_guests_own_fault_comes_first() -> None:
    guest = NptGuest(Mode.FOUR_LEVEL)
    guest.change(GPA, clear=P)
    leaf = guest.own_entry()
    guest.memory.write(leaf, guest.memory.read(leaf) & ~W)
    result = guest.walk(WRITE)
    assert isinstance(result, PageFault)
    assert result.error_code == ERROR_P | ERROR_WR


def test_the_guests_flags_are_set_before_the_page_faults() -> None:
    guest = NptGuest(Mode.FOUR_LEVEL)
    guest.change(GPA, clear=P)
    leaf = guest.own_entry()
    exit_info(guest.walk(WRITE))
    assert guest.memory.read(leaf) & (A | D) == A | D


def test_pdptes_of_a_guest_are_read_on_each_walk() -> None:
    """APM 15.25.10: a PDPTE with reserved bits is a page fault of the access, no #GP at CR3 load."""
    guest = NptGuest(Mode.PAE)
    pdpte = guest.own_entry(3)
    guest.memory.write(pdpte, guest.memory.read(pdpte) | 1 << 5)
    result = guest.walk(READ)
    assert isinstance(result, PageFault)
    assert result.error_code == ERROR_P | ERROR_RSVD


@pytest.mark.parametrize(
    ("host_mode", "width"), [(Mode.THIRTY_TWO_BIT, 32), (Mode.PAE, 32), (Mode.FOUR_LEVEL, 48)]
)
def test_an_address_beyond_the_width_of_the_host_paging(host_mode: Mode, width: int) -> None:
    cr4 = {Mode.THIRTY_TWO_BIT: CR4_PSE, Mode.PAE: CR4_PAE, Mode.FOUR_LEVEL: CR4_PAE}[host_mode]
    host = NestedPaging(0, cr4=cr4, efer=EFER_LMA if host_mode.is_long else 0)
    memory = PhysicalMemory()
    memory.write(0x1000, 0x2007)
    registers = Registers(cr0=CR0_PE | CR0_PG, cr3=1 << width, cr4=CR4_PAE | CR4_LA57, efer=EFER_LMA)
    with pytest.raises(NestedPageFault) as caught:
        walk_nested(memory, LinearPaging(registers), host, READ, 0)
    assert exit_info(caught.value) == (ERROR_US | ERROR_WR | EXIT_INFO_TABLE, 1 << width)


@pytest.mark.parametrize(
    ("host_mode", "width"),
    [(Mode.THIRTY_TWO_BIT, 32), (Mode.PAE, 32), (Mode.FOUR_LEVEL, 48), (Mode.FIVE_LEVEL, 57)],
)
def test_the_last_page_that_the_host_paging_reaches(host_mode: Mode, width: int) -> None:
    """It is mapped as any other; the one after it is not there, whatever the tables say."""
    guest = NptGuest(Mode.OFF, host_mode)
    end = 1 << width
    guest.host.map(end - 0x1000, GPA)
    assert walk(guest.memory, guest.paging, PAGE_ACCESS[Kind.READ], end - 8).address == GPA | 0xFF8
    guest.host.map(0, GPA)
    with pytest.raises(NestedPageFault) as caught:
        walk(guest.memory, guest.paging, PAGE_ACCESS[Kind.READ], end)
    assert exit_info(caught.value) == (ERROR_US | EXIT_INFO_PAGE, end)


def test_a_processor_runs_a_guest() -> None:
    guest = NptGuest(Mode.FOUR_LEVEL)
    cpu = LogicalProcessor(guest.memory)
    cpu.enter_guest(guest.registers, guest.paging)
    cpu.write(VA, 0x1122_3344_5566_7788, cpl=3)
    assert cpu.read(VA + 4, 4) == 0x1122_3344
    assert guest.memory.read(GPA + HOST_OFFSET) == 0x1122_3344_5566_7788
    guest.change(GPA, clear=W)
    cpu.flush_asid()
    with pytest.raises(NestedPageFault):
        cpu.write(VA, 0)
    cpu.exit_guest()
    assert cpu.read(GPA + HOST_OFFSET) == 0x1122_3344_5566_7788
