"""What a processor remembers of a guest's walks, and which instruction makes it forget what."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from conformance.hardware.guest import GPA, HOST_OFFSET, EptGuest, Guest, NptGuest
from conformance.hardware.machine import MAXPHYADDR, PAGE, VA, Machine
from mmu_model.hardware import (
    CR0_PE,
    CR0_PG,
    CR4_PAE,
    CR4_PGE,
    EFER_LMA,
    EptViolation,
    ExtendedPaging,
    Fault,
    GeneralProtection,
    Invvpid,
    Kind,
    LogicalProcessor,
    Mode,
    NestedPageFault,
    PageFault,
    Registers,
    access,
)
from mmu_model.hardware.ept import EPTP_WALK_LENGTH_4, EPTP_WRITE_BACK
from mmu_model.hardware.tables import PageTables, frames_from

W = 2
READ = access(Kind.READ)


def stale_guest(guest: Guest, vpid: int = 1) -> LogicalProcessor:
    """The guest has read VA; then the host moved its page by 1 GiB."""
    cpu = LogicalProcessor(guest.memory)
    cpu.enter_guest(guest.registers, guest.paging, vpid)
    cpu.read(VA)
    guest.host.map(GPA, GPA + 2 * HOST_OFFSET, flags=guest.leaf_flags)
    assert is_stale_guest(cpu)
    return cpu


def is_stale_guest(cpu: LogicalProcessor) -> bool:
    return cpu.translate(VA, READ) == GPA + HOST_OFFSET


@pytest.mark.parametrize(
    ("forget", "forgets"),
    [
        (lambda cpu, guest: cpu.invept(guest.paging.ep4ta), True),
        (lambda cpu, guest: cpu.invept(guest.paging.ep4ta | EPTP_WRITE_BACK), True),
        (lambda cpu, guest: cpu.invept(guest.paging.ep4ta + 0x1000), False),
        (lambda cpu, guest: cpu.invept(), True),
        (lambda cpu, guest: cpu.invvpid(Invvpid.VPID, 1), False),
        (lambda cpu, guest: cpu.invvpid(Invvpid.ALL), False),
        (lambda cpu, guest: cpu.invlpg(VA), False),
        (lambda cpu, guest: cpu.mov_cr3(cpu.registers.cr3), False),
    ],
)
def test_only_invept_forgets_what_ept_says(
    forget: Callable[[LogicalProcessor, Guest], None], forgets: bool
) -> None:
    """29.4.3: the others are about linear addresses; a translation of the guest-physical one remains."""
    guest = EptGuest(Mode.FOUR_LEVEL)
    cpu = stale_guest(guest)
    forget(cpu, guest)
    assert is_stale_guest(cpu) is not forgets


def remapped_guest(guest: Guest) -> LogicalProcessor:
    """The guest has read VA; then it mapped VA elsewhere in its own tables."""
    cpu = LogicalProcessor(guest.memory)
    cpu.enter_guest(guest.registers, guest.paging, 1)
    cpu.read(VA)
    guest.memory.write(guest.own_entry(), guest.memory.read(guest.own_entry()) & 0xFFF | VA)
    assert is_stale_guest(cpu)
    return cpu


@pytest.mark.parametrize("kind", [EptGuest, NptGuest])
@pytest.mark.parametrize(
    ("forget", "forgets"),
    [
        (lambda cpu: cpu.invlpg(VA), True),
        (lambda cpu: cpu.mov_cr3(cpu.registers.cr3), True),
        (lambda cpu: cpu.invvpid(Invvpid(1), 1), True),
        (lambda cpu: cpu.invvpid(Invvpid.VPID, 2), False),
        (lambda cpu: cpu.invvpid(Invvpid(3), 1), True),
        (lambda cpu: cpu.invvpid(Invvpid(0), 1, VA), True),
        (lambda cpu: cpu.invvpid(Invvpid.ADDRESS, 1, VA + 0x1000), False),
        (lambda cpu: cpu.invvpid(Invvpid(2)), True),
        (lambda cpu: cpu.invlpga(VA, 1), True),
        (lambda cpu: cpu.invlpga(VA, 2), False),
        (lambda cpu: cpu.flush_asid(1), True),
        (lambda cpu: cpu.flush_asid(2), False),
    ],
)
def test_what_forgets_the_linear_addresses_of_a_guest(
    kind: type[EptGuest] | type[NptGuest], forget: Callable[[LogicalProcessor], None], forgets: bool
) -> None:
    cpu = remapped_guest(kind(Mode.FOUR_LEVEL))
    forget(cpu)
    assert is_stale_guest(cpu) is not forgets


def test_npt_translations_belong_to_the_asid() -> None:
    guest = NptGuest(Mode.FOUR_LEVEL)
    cpu = stale_guest(guest)
    cpu.flush_asid(2)
    assert is_stale_guest(cpu)
    cpu.flush_asid(1)
    assert not is_stale_guest(cpu)


@pytest.mark.parametrize("vpid", [0, 1])
def test_entry_and_exit_forget_only_without_a_vpid(vpid: int) -> None:
    guest = NptGuest(Mode.FOUR_LEVEL)
    cpu = stale_guest(guest, vpid)
    registers = cpu.exit_guest()
    cpu.enter_guest(registers, guest.paging, vpid)
    assert is_stale_guest(cpu) is (vpid == 1)


def test_two_guests_do_not_see_each_others_translations() -> None:
    guest = NptGuest(Mode.FOUR_LEVEL)
    cpu = stale_guest(guest, 1)
    cpu.exit_guest()
    cpu.enter_guest(guest.registers, guest.paging, 2)
    assert not is_stale_guest(cpu)
    assert cpu.exit_guest() == guest.registers
    assert cpu.read(GPA + HOST_OFFSET) == 0


@pytest.mark.parametrize(("kind", "exits"), [(EptGuest, EptViolation), (NptGuest, NestedPageFault)])
def test_an_exit_forgets_what_it_was_about(kind: type[EptGuest] | type[NptGuest], exits: type[Fault]) -> None:
    """29.4.3.1: after a violation the hypervisor may give rights without an invalidation."""
    guest = kind(Mode.FOUR_LEVEL)
    guest.change(GPA, clear=W)
    cpu = LogicalProcessor(guest.memory)
    cpu.enter_guest(guest.registers, guest.paging, 1)
    cpu.read(VA)
    guest.change(GPA, add=W)
    with pytest.raises(exits):
        cpu.write(VA, 1)
    cpu.write(VA, 1)


def test_a_large_page_of_a_guest_on_small_pages_is_forgotten_as_one() -> None:
    guest = NptGuest(Mode.FOUR_LEVEL)
    guest.memory.write(guest.own_entry(2), 0x0040_0000 | 0x87)
    base = VA & ~0x1F_FFFF
    for offset in (0, 0x1000):
        guest.host.map(0x40_0000 + offset, 0x5000_0000 + offset)
    cpu = LogicalProcessor(guest.memory)
    cpu.enter_guest(guest.registers, guest.paging, 1)
    assert [cpu.translate(base + offset, READ) for offset in (0, 0x1000)] == [0x5000_0000, 0x5000_1000]
    assert len(cpu.tlb) == 2
    cpu.invlpg(base)
    assert len(cpu.tlb) == 0


@pytest.mark.parametrize(("kind", "exits"), [(EptGuest, EptViolation), (NptGuest, NestedPageFault)])
def test_an_exit_forgets_nothing_about_other_addresses(
    kind: type[EptGuest] | type[NptGuest], exits: type[Fault]
) -> None:
    """29.4.3.1: of guest-physical addresses the one that did not translate, and the tables on its way."""
    guest = kind(Mode.OFF)
    other, far = VA + 0x1000, VA + (1 << 30)
    guest.host.map(other, PAGE, flags=guest.leaf_flags)
    cpu = LogicalProcessor(guest.memory)
    cpu.enter_guest(guest.registers, guest.paging, 1)
    cpu.read(VA)
    guest.host.map(VA, PAGE, flags=guest.leaf_flags)
    guest.change(VA, level=2, clear=7)

    with pytest.raises(exits):
        cpu.read(far)

    assert cpu.translate(VA, READ) == VA + HOST_OFFSET
    assert cpu.translate(other, READ) == PAGE
    cpu.flush_asid()
    with pytest.raises(exits):
        cpu.read(other)


def test_a_guests_own_fault_forgets_nothing_of_the_second_dimension() -> None:
    """A page fault is about linear addresses."""
    guest = NptGuest(Mode.FOUR_LEVEL)
    cpu = stale_guest(guest)
    with pytest.raises(PageFault):
        cpu.read(VA + 0x1000)
    assert is_stale_guest(cpu)
    cpu.invlpg(VA)
    assert is_stale_guest(cpu)


def test_without_a_vpid_an_entry_forgets_what_the_host_had() -> None:
    """And an exit what the guest had; translations by a VPID stay for it."""
    guest = NptGuest(Mode.FOUR_LEVEL)
    host = Machine(Mode.FOUR_LEVEL)
    host.tables.map(VA, PAGE)
    cpu = LogicalProcessor(host.memory, host.registers())
    for vpid in (1, 0):
        cpu.read(VA)
        host.tables.map(VA, HOST_OFFSET)
        assert cpu.translate(VA, READ) == PAGE
        cpu.enter_guest(guest.registers, None, vpid)
        assert cpu.exit_guest() == guest.registers
        assert cpu.translate(VA, READ) == (PAGE if vpid else HOST_OFFSET)
        host.tables.map(VA, PAGE)


@pytest.mark.parametrize("vpid", [0, 1])
def test_the_host_uses_no_translation_of_its_guest(vpid: int) -> None:
    """Nor the next guest one of the guest before it, under nested page tables of its own."""
    guest, other = NptGuest(Mode.OFF), NptGuest(Mode.OFF)
    cpu = LogicalProcessor(guest.memory)
    cpu.enter_guest(guest.registers, guest.paging, vpid)
    assert cpu.translate(VA, READ) == VA + HOST_OFFSET
    cpu.exit_guest()
    assert cpu.translate(VA, READ) == VA

    tables = PageTables(guest.memory, Mode.FOUR_LEVEL, frames_from(0x20_0000))
    tables.map(VA, PAGE)
    other.host.root = tables.root
    cpu.enter_guest(other.registers, other.paging, vpid * 2)
    assert cpu.translate(VA, READ) == PAGE


@pytest.mark.parametrize("vpid", [0, 1])
def test_a_guest_uses_no_translation_of_its_host(vpid: int) -> None:
    """Under nested page tables both are of ASID 0, or each of its own."""
    guest = NptGuest(Mode.OFF)
    tables = PageTables(guest.memory, Mode.FOUR_LEVEL, frames_from(0x30_0000))
    tables.map(VA, PAGE)
    registers = Registers(
        cr0=CR0_PE | CR0_PG, cr3=tables.root, cr4=CR4_PAE, efer=EFER_LMA, maxphyaddr=MAXPHYADDR
    )
    cpu = LogicalProcessor(guest.memory, registers)
    assert cpu.translate(VA, READ) == PAGE

    cpu.enter_guest(guest.registers, guest.paging, vpid)

    assert cpu.translate(VA, READ) == VA + HOST_OFFSET


def test_a_refused_entry_leaves_the_processor_as_it_was() -> None:
    """The guest's PDPTEs cannot be loaded: the host goes on, and what it returns to later is its own."""
    guest = EptGuest(Mode.PAE)
    guest.memory.write(guest.own_entry(3), 1 | 1 << 5)
    cpu = LogicalProcessor(guest.memory)
    before = cpu.registers

    with pytest.raises(GeneralProtection):
        cpu.enter_guest(guest.registers, guest.paging, 1)

    assert (cpu.registers, cpu.second_dimension, cpu.vpid) == (before, None, 0)
    assert cpu.translate(VA, READ) == VA
    cpu.enter_guest(guest.registers, guest.paging, 1, pdptes=(0, 0, 0, 0))
    with pytest.raises(PageFault):
        cpu.read(VA)
    assert cpu.exit_guest() == guest.registers
    assert cpu.registers == before


@pytest.mark.parametrize(
    ("forget", "kept"),
    [
        (lambda cpu: cpu.invvpid(Invvpid.VPID_KEEP_GLOBAL, 1), True),
        (lambda cpu: cpu.invvpid(Invvpid.VPID, 1), False),
        (lambda cpu: cpu.flush_asid(1, keep_global=True), True),
        (lambda cpu: cpu.flush_asid(1), False),
    ],
)
def test_global_pages_are_forgotten_by_asid_unless_kept(
    forget: Callable[[LogicalProcessor], None], kept: bool
) -> None:
    """INVVPID that retains globals, and TLB_CONTROL 7, which flushes those of no ASID (APM vol. 2, 15.16.1)."""
    guest = EptGuest(Mode.FOUR_LEVEL)
    guest.memory.write(guest.own_entry(), guest.memory.read(guest.own_entry()) | 1 << 8)
    cpu = LogicalProcessor(guest.memory)
    registers = replace(guest.registers, cr4=guest.registers.cr4 | CR4_PGE)
    cpu.enter_guest(registers, guest.paging, 1)
    cpu.read(VA)
    guest.memory.write(guest.own_entry(), guest.memory.read(guest.own_entry()) & 0xFFF | VA)

    forget(cpu)

    assert is_stale_guest(cpu) is kept


def test_what_was_part_of_a_large_page_is_forgotten_for_itself() -> None:
    """The guest has a page of 4 KiB by now where a large one was: INVLPG of its neighbour leaves it alone."""
    guest = NptGuest(Mode.FOUR_LEVEL)
    table = guest.memory.read(guest.own_entry(2))
    base, neighbour = VA & ~0x1F_FFFF, (VA & ~0x1F_FFFF) + 0x1000
    for gpa in (0x40_0000, 0x40_1000, 0x60_0000):
        guest.host.map(gpa, gpa + HOST_OFFSET)
    cpu = LogicalProcessor(guest.memory)
    cpu.enter_guest(guest.registers, guest.paging, 1)
    guest.memory.write(guest.own_entry(2), 0x40_0000 | 0x87)
    assert cpu.translate(base, READ) == 0x40_0000 + HOST_OFFSET
    guest.memory.write(guest.own_entry(2), table)
    entry = (table & ~0xFFF) + HOST_OFFSET
    guest.memory.write(entry, 0x60_0000 | 7)
    assert cpu.translate(base, access(Kind.WRITE)) == 0x60_0000 + HOST_OFFSET
    guest.memory.write(entry, 0)

    cpu.invlpg(neighbour)

    assert cpu.translate(base, READ) == 0x60_0000 + HOST_OFFSET
    cpu.invlpg(base)
    with pytest.raises(PageFault):
        cpu.read(base)


def test_translations_by_another_ept_are_not_used() -> None:
    """29.4.1: they are tagged with the root of the EPT; with the same VPID each EPT has its own."""
    first = EptGuest(Mode.FOUR_LEVEL)
    cpu = stale_guest(first)
    second = PageTables(first.memory, Mode.FOUR_LEVEL, frames_from(0x20_0000))
    for gpa in [*first.table_gpas, GPA]:
        second.map(gpa, gpa + HOST_OFFSET * (2 if gpa == GPA else 1), flags=first.leaf_flags)
    cpu.exit_guest()
    eptp = second.root | EPTP_WRITE_BACK | EPTP_WALK_LENGTH_4
    cpu.enter_guest(first.registers, ExtendedPaging(eptp, maxphyaddr=MAXPHYADDR), 1)
    assert not is_stale_guest(cpu)
    cpu.exit_guest()
    cpu.enter_guest(first.registers, first.paging, 1)
    assert is_stale_guest(cpu)
    cpu.invept(second.root)
    assert is_stale_guest(cpu)
    cpu.invept()
    assert not is_stale_guest(cpu)
