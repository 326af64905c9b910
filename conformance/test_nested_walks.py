"""Walks in two dimensions: what NPT and EPT permit, and what an exit says, of pages and of the guest's tables."""

from dataclasses import dataclass

import pytest

from mmu_model.hardware import (
    CR0_PE,
    CR0_PG,
    CR4_PAE,
    EFER_LMA,
    EFER_NXE,
    Access,
    EptMisconfiguration,
    EptViolation,
    ExtendedPaging,
    Kind,
    LinearPaging,
    Mode,
    NestedPageFault,
    NestedPaging,
    PhysicalMemory,
    Registers,
    SecondDimension,
    access,
    walk_nested,
)
from mmu_model.hardware.ept import (
    EPTP_ACCESSED_DIRTY,
    EPTP_WALK_LENGTH_4,
    EPTP_WALK_LENGTH_5,
    EPTP_WRITE_BACK,
)
from mmu_model.hardware.tables import PageTables, frames_from

MAXPHYADDR = 46
READ, WRITE, FETCH = (access(kind, user=True) for kind in (Kind.READ, Kind.WRITE, Kind.FETCH))
VA, GPA, HPA = 0x1234_5678, 0x60_0678, 0x8060_0678
GUEST_TABLES, HOST_TABLES = 0x10_0000, 0x4000_0000
OFFSET = HPA - GPA
"""Between guest-physical and host-physical addresses."""

NPT_ALL = 0x67
EPT_ALL = 7 | 6 << 3
P, W, U, A, D, NX = 1, 1 << 1, 1 << 2, 1 << 5, 1 << 6, 1 << 63
EPT_A, EPT_D, EPT_LARGE = 1 << 8, 1 << 9, 1 << 7
RIGHT = {READ: 1, WRITE: 2, FETCH: 4}
PAGE_EXIT, TABLE_EXIT = 1 << 32, 1 << 33
LINEAR_VALID, OF_THE_PAGE = 1 << 7, 1 << 8


@dataclass
class Machine:
    """A guest with 4-level paging that maps VA to GPA, over tables of the host."""

    memory: PhysicalMemory
    guest: PageTables
    host: PageTables
    second: SecondDimension

    def walk(self, how: Access, address: int = VA) -> int:
        """Where it ends."""
        registers = Registers(
            cr0=CR0_PE | CR0_PG,
            cr3=self.guest.root,
            cr4=CR4_PAE,
            efer=EFER_LMA | EFER_NXE,
            maxphyaddr=MAXPHYADDR,
        )
        return walk_nested(self.memory, LinearPaging(registers), self.second, how, address).host.address

    def host_entry(self, gpa: int, level: int = 1) -> int:
        """Where the host's entry for a guest-physical address is."""
        return self.host.entry_address(gpa, level)

    def change(self, gpa: int, *, clear: int = 0, add: int = 0, level: int = 1) -> None:
        """Clear and set bits of the host's entry."""
        where = self.host_entry(gpa, level)
        self.memory.write(where, self.memory.read(where) & ~clear | add)

    def guest_entry(self, level: int = 1) -> int:
        """The guest-physical address of its entry for VA."""
        return self.guest.entry_address(VA, level)


class Shifted:
    """The guest's memory as the guest sees it."""

    def __init__(self, memory: PhysicalMemory) -> None:
        self._memory = memory

    def read(self, address: int, size: int = 8) -> int:
        """Of guest-physical memory."""
        return self._memory.read(address + OFFSET, size)

    def compare_exchange(self, address: int, expected: int, value: int, size: int = 8) -> bool:
        """Of guest-physical memory."""
        return self._memory.compare_exchange(address + OFFSET, expected, value, size)


def machine(second: str, *, flags: bool = False, levels: int = 4, exec_only: bool = False) -> Machine:
    """Under "npt" or "ept"; the host maps the guest's tables and its page, each with 4 KiB."""
    memory = PhysicalMemory(MAXPHYADDR)
    mode = Mode.FOUR_LEVEL if levels == 4 else Mode.FIVE_LEVEL
    host = PageTables(memory, mode, frames_from(HOST_TABLES))
    guest = PageTables(Shifted(memory), Mode.FOUR_LEVEL, frames_from(GUEST_TABLES))
    guest.map(VA & ~0xFFF, GPA & ~0xFFF)
    rights = NPT_ALL if second == "npt" else EPT_ALL
    for page in [*range(GUEST_TABLES, GUEST_TABLES + 0x8000, 0x1000), GPA & ~0xFFF]:
        host.map(page, page + OFFSET, flags=rights)
    if second == "npt":
        return Machine(
            memory,
            guest,
            host,
            NestedPaging(host.root, cr4=CR4_PAE, efer=EFER_LMA | EFER_NXE, maxphyaddr=MAXPHYADDR),
        )
    length = EPTP_WALK_LENGTH_4 if levels == 4 else EPTP_WALK_LENGTH_5
    eptp = host.root | EPTP_WRITE_BACK | length | EPTP_ACCESSED_DIRTY * flags
    return Machine(memory, guest, host, ExtendedPaging(eptp, exec_only=exec_only, maxphyaddr=MAXPHYADDR))


@pytest.mark.parametrize("how", [READ, WRITE, FETCH], ids=lambda how: how.kind.value)
@pytest.mark.parametrize("second", ["npt", "ept"])
def test_two_walks_lead_to_the_page(second: str, how: Access) -> None:
    """The guest's tables are found by the host's, and both offsets are kept."""
    assert machine(second).walk(how) == HPA


@pytest.mark.parametrize("how", [READ, WRITE, FETCH], ids=lambda how: how.kind.value)
@pytest.mark.parametrize("rights", [0, 1, 3, 5, 7])
def test_ept_permits_a_page_what_its_entry_says(rights: int, how: Access) -> None:
    """R, W and X, each for itself. The exit says what was wanted, what is permitted, and that it was the page."""
    scene = machine("ept")
    scene.change(GPA, clear=7, add=rights)
    if RIGHT[how] & rights:
        assert scene.walk(how) == HPA
        return

    with pytest.raises(EptViolation) as exit_:
        scene.walk(how)

    assert exit_.value.gpa == GPA
    assert exit_.value.exit_qualification == RIGHT[how] | rights << 3 | LINEAR_VALID | OF_THE_PAGE
    assert exit_.value.permitted == rights


@pytest.mark.parametrize("upper", [1, 5, 7])
@pytest.mark.parametrize("level", [2, 3, 4])
def test_ept_permits_what_all_levels_permit(level: int, upper: int) -> None:
    """The guest's tables are reached by other entries than its page."""
    scene = machine("ept")
    scene.host.map(GPA & ~0xFFF | 1 << 39, HPA & ~0xFFF, flags=EPT_ALL)
    scene.guest.map(VA & ~0xFFF, GPA & ~0xFFF | 1 << 39)
    scene.change(GPA | 1 << 39, clear=7, add=upper, level=level)
    if upper & 2:
        assert scene.walk(WRITE) == HPA
        return

    with pytest.raises(EptViolation) as exit_:
        scene.walk(WRITE)

    assert exit_.value.exit_qualification == 2 | upper << 3 | LINEAR_VALID | OF_THE_PAGE
    assert exit_.value.gpa == GPA | 1 << 39


@pytest.mark.parametrize("flags", [False, True])
@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_an_ept_exit_for_a_table_says_so(level: int, flags: bool) -> None:
    """Reading a table is a read; with accessed and dirty flags in EPT it is a write too. Bit 8 stays clear."""
    scene = machine("ept", flags=flags)
    entry = scene.guest_entry(level)
    scene.change(entry, clear=7)

    with pytest.raises(EptViolation) as exit_:
        scene.walk(READ)

    assert exit_.value.gpa == entry
    assert exit_.value.exit_qualification == (3 if flags else 1) | LINEAR_VALID


def test_a_guests_accessed_flag_needs_a_writable_table() -> None:
    """The table can be read, so the walk gets that far; the flag is a write, and that is the exit."""
    scene = machine("ept")
    scene.change(scene.guest_entry(), clear=2)

    with pytest.raises(EptViolation) as exit_:
        scene.walk(READ)
    assert exit_.value.exit_qualification & 7 == 2
    assert exit_.value.gpa == scene.guest_entry()

    where = scene.guest_entry() + OFFSET
    scene.memory.write(where, scene.memory.read(where) | A)
    assert scene.walk(READ) == HPA
    with pytest.raises(EptViolation):
        scene.walk(WRITE)


@pytest.mark.parametrize(
    ("bits", "clear"),
    [
        (2, 7),  # writable and not readable
        (6, 7),
        (4, 7),  # executable only, on a processor that has none
        (2 << 3, 7 << 3),  # memory types 2, 3 and 7
        (3 << 3, 7 << 3),
        (7 << 3, 7 << 3),
        (1 << MAXPHYADDR, 0),
        (1 << 51, 0),
    ],
)
def test_ept_entries_that_are_wrong_are_misconfigurations(bits: int, clear: int) -> None:
    """Whatever the access; a present entry only."""
    scene = machine("ept")
    scene.change(GPA, clear=clear, add=bits)
    for how in (READ, WRITE, FETCH):
        with pytest.raises(EptMisconfiguration) as exit_:
            scene.walk(how)
        assert exit_.value.gpa == GPA

    scene.change(GPA, clear=7)
    with pytest.raises(EptViolation):
        scene.walk(READ)


def test_pages_for_execution_alone_are_a_feature() -> None:
    """With it such an entry permits fetches and nothing else."""
    scene = machine("ept", exec_only=True)
    scene.change(GPA, clear=7, add=4)

    assert scene.walk(FETCH) == HPA
    for how in (READ, WRITE):
        with pytest.raises(EptViolation):
            scene.walk(how)


@pytest.mark.parametrize("bit", range(3, 8))
def test_table_entries_of_ept_have_reserved_bits(bit: int) -> None:
    """Bits 7:3 of one that references a table; at level 3 and 2 bit 7 makes it a page, then low address bits."""
    scene = machine("ept")
    scene.change(GPA, add=1 << bit, level=4)

    with pytest.raises(EptMisconfiguration):
        scene.walk(READ)


@pytest.mark.parametrize(("level", "size"), [(2, 1 << 21), (3, 1 << 30)])
@pytest.mark.parametrize("second", ["npt", "ept"])
def test_large_pages_of_the_host(second: str, level: int, size: int) -> None:
    """The address below the size is the guest's; an address bit of the entry below it is reserved."""
    scene = machine(second)
    gpa, hpa = (1 << 40) + 0x1234_5678 % size, (1 << 45) + 0x1234_5678 % size
    rights = NPT_ALL if second == "npt" else EPT_ALL
    scene.host.map(1 << 40, 1 << 45, level, rights)
    scene.guest.map(VA & ~0xFFF, gpa & ~0xFFF)
    assert scene.walk(WRITE) == hpa & ~0xFFF | VA & 0xFFF

    scene.change(1 << 40, add=size >> 1, level=level)
    with pytest.raises(EptMisconfiguration if second == "ept" else NestedPageFault):
        scene.walk(READ)


@pytest.mark.parametrize("how", [READ, WRITE, FETCH], ids=lambda how: how.kind.value)
def test_ept_notes_what_was_used(how: Access) -> None:
    """With the flags enabled: accessed on the way, dirty at the page for a write, and for every table of the
    guest. Without them nothing is noted."""
    for flags in (True, False):
        scene = machine("ept", flags=flags)
        scene.walk(how)

        page = scene.memory.read(scene.host_entry(GPA))
        assert page & (EPT_A | EPT_D) == (EPT_A | EPT_D * (how is WRITE)) * flags
        for level in (2, 3, 4):
            assert scene.memory.read(scene.host_entry(GPA, level)) & (EPT_A | EPT_D) == EPT_A * flags
        for level in (1, 2, 3, 4):
            table = scene.memory.read(scene.host_entry(scene.guest_entry(level)))
            assert table & (EPT_A | EPT_D) == (EPT_A | EPT_D) * flags


def test_five_levels_of_ept() -> None:
    """An address of 57 bits; with four levels one of more than 48 is mapped nowhere."""
    scene = machine("ept", levels=5)
    high = GPA & ~0xFFF | 1 << 45
    scene.host.map(high, HPA & ~0xFFF, flags=EPT_ALL)
    scene.guest.map(VA & ~0xFFF, high)
    assert scene.walk(READ) == HPA
    scene.change(high, clear=7, level=5)
    with pytest.raises(EptViolation):
        scene.walk(READ)


@pytest.mark.parametrize(
    ("clear", "add", "how", "code"),
    [
        (P, 0, READ, U),
        (P, 0, WRITE, U | W),
        (P, 0, FETCH, U | 1 << 4),
        (W, 0, WRITE, P | U | W),
        (U, 0, READ, P | U),
        (0, NX, FETCH, P | U | 1 << 4),
        (0, 1 << MAXPHYADDR, READ, P | U | 1 << 3),
        (0, 1 << 51, WRITE, P | U | W | 1 << 3),
    ],
)
def test_what_npt_says_of_a_page(clear: int, add: int, how: Access, code: int) -> None:
    """An error code as of a user's access on the host, and bit 32: it was the page."""
    scene = machine("npt")
    scene.change(GPA, clear=clear, add=add)

    with pytest.raises(NestedPageFault) as exit_:
        scene.walk(how)

    assert (exit_.value.exit_info_1, exit_.value.gpa) == (code | PAGE_EXIT, GPA)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
@pytest.mark.parametrize(("clear", "code"), [(P, U | W), (W, P | U | W), (U, P | U | W)])
def test_what_npt_says_of_a_table(level: int, clear: int, code: int) -> None:
    """The guest's tables are always accessed for writing, by a user, and bit 33 says that it was one."""
    scene = machine("npt")
    entry = scene.guest_entry(level)
    scene.change(entry, clear=clear)

    with pytest.raises(NestedPageFault) as exit_:
        scene.walk(FETCH)

    assert (exit_.value.exit_info_1, exit_.value.gpa) == (code | TABLE_EXIT, entry)


@pytest.mark.parametrize(
    ("eptp", "wrong"),
    [
        (EPTP_WRITE_BACK | EPTP_WALK_LENGTH_4, False),
        (EPTP_WALK_LENGTH_5, False),
        (EPTP_WRITE_BACK | EPTP_WALK_LENGTH_4 | EPTP_ACCESSED_DIRTY, False),
        (EPTP_WRITE_BACK | EPTP_WALK_LENGTH_4 | 1 << MAXPHYADDR - 1, False),
        (1 | EPTP_WALK_LENGTH_4, True),
        (5 | EPTP_WALK_LENGTH_4, True),
        (7 | EPTP_WALK_LENGTH_4, True),
        (EPTP_WRITE_BACK, True),
        (EPTP_WRITE_BACK | 2 << 3, True),
        (EPTP_WRITE_BACK | 5 << 3, True),
        *((EPTP_WRITE_BACK | EPTP_WALK_LENGTH_4 | 1 << bit, True) for bit in range(7, 12)),
        (EPTP_WRITE_BACK | EPTP_WALK_LENGTH_4 | 1 << MAXPHYADDR, True),
    ],
)
def test_which_pointers_to_ept_there_are(eptp: int, wrong: bool) -> None:
    """Memory type 0 or 6, 4 or 5 levels, no reserved bit."""
    if not wrong:
        assert ExtendedPaging(eptp, maxphyaddr=MAXPHYADDR).ep4ta == eptp & ~0xFFF
        return
    with pytest.raises(ValueError, match="EPTP"):
        ExtendedPaging(eptp, maxphyaddr=MAXPHYADDR)
