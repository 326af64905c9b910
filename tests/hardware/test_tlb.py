"""What a processor remembers of its walks, and which instruction makes it forget what."""

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from mmu_model.hardware import (
    CR0_WP,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PGE,
    Access,
    EptViolation,
    Fault,
    GeneralProtection,
    Invpcid,
    Invvpid,
    Kind,
    LinearPaging,
    LogicalProcessor,
    Mode,
    NestedPageFault,
    PageFault,
    access,
    walk,
)
from mmu_model.hardware.control import CR3_NO_FLUSH
from tests.hardware.guest import GPA, HOST_OFFSET, VA, EptGuest, Guest, NptGuest
from tests.hardware.machine import MODES, Machine

P, W, U, A, D, G = 1, 2, 4, 1 << 5, 1 << 6, 1 << 8
PAGE, OTHER = 0x8000_0000, 0x9000_0000
READ, WRITE = access(Kind.READ), access(Kind.WRITE)


def scene(
    mode: Mode = Mode.FOUR_LEVEL, flags: int = P | W, level: int = 1, cr4: int = 0
) -> tuple[Machine, LogicalProcessor]:
    """VA is mapped to PAGE, has been read, and now is mapped to OTHER: the translation cached is stale."""
    machine = Machine(mode)
    machine.tables.map(VA, PAGE, level, flags)
    machine.memory.write(PAGE | VA & 0x3F_F000, 1)
    machine.memory.write(OTHER | VA & 0x3F_F000, 2)
    cpu = LogicalProcessor(machine.memory, machine.registers(cr4=cr4))
    cpu.read(VA)
    machine.tables.map(VA, OTHER, level, flags)
    return machine, cpu


def is_stale(cpu: LogicalProcessor, address: int = VA) -> bool:
    """Whether the processor still goes where the tables led first."""
    return cpu.translate(address, READ) >> 28 == PAGE >> 28


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("level", [1, 2])
def test_a_stale_entry_is_used_until_invlpg(mode: Mode, level: int) -> None:
    _, cpu = scene(mode, level=level)
    assert is_stale(cpu)
    cpu.invlpg(VA + 0x1_0000)
    assert is_stale(cpu) is (level == 1), "INVLPG of any address in a large page is about all of it"
    cpu.invlpg(VA)
    assert not is_stale(cpu)


def test_a_fault_is_not_cached() -> None:
    machine = Machine(Mode.FOUR_LEVEL)
    cpu = LogicalProcessor(machine.memory, machine.registers())
    with pytest.raises(PageFault):
        cpu.read(VA)
    machine.tables.map(VA, PAGE)
    cpu.read(VA)


def test_a_fault_caches_tables_but_forgets_them_at_once() -> None:
    """The next try reads every table again, so that software may fix any level without an invalidation."""
    machine = Machine(Mode.FOUR_LEVEL)
    machine.tables.map(VA, PAGE)
    machine.clear_bits(VA, 1, P)
    cpu = LogicalProcessor(machine.memory, machine.registers())
    with pytest.raises(PageFault):
        cpu.read(VA)
    machine.memory.write(0x70_0000 | (VA >> 12 & 511) * 8, OTHER | P)
    machine.memory.write(machine.tables.entry_address(VA, 2), 0x70_0000 | P)
    assert not is_stale(cpu)


def test_rights_are_cached_and_a_spurious_fault_forgets_them() -> None:
    """SDM 4.10.4.3: more rights may be given without an invalidation; the fault comes once at the most."""
    machine = Machine(Mode.FOUR_LEVEL)
    machine.tables.map(VA, PAGE, flags=P)
    cpu = LogicalProcessor(machine.memory, machine.registers())
    cpu.read(VA)
    machine.set_bits(VA, 1, W)
    with pytest.raises(PageFault):
        cpu.write(VA, 1)
    cpu.write(VA, 1)


def test_rights_taken_away_remain_until_invalidated() -> None:
    machine = Machine(Mode.FOUR_LEVEL)
    machine.tables.map(VA, PAGE)
    cpu = LogicalProcessor(machine.memory, machine.registers())
    cpu.write(VA, 1)
    machine.clear_bits(VA, 1, W)
    cpu.write(VA, 2)
    cpu.invlpg(VA)
    with pytest.raises(PageFault):
        cpu.write(VA, 3)


def test_registers_take_effect_on_cached_translations() -> None:
    machine = Machine(Mode.FOUR_LEVEL)
    machine.tables.map(VA, PAGE, flags=P)
    cpu = LogicalProcessor(machine.memory, machine.registers(cr0=0))
    cpu.write(VA, 1)
    cpu.mov_cr0(cpu.registers.cr0 | CR0_WP)
    with pytest.raises(PageFault):
        cpu.write(VA, 1)


def test_a_write_through_a_clean_entry_sets_dirty() -> None:
    machine = Machine(Mode.FOUR_LEVEL)
    machine.tables.map(VA, PAGE)
    cpu = LogicalProcessor(machine.memory, machine.registers())
    cpu.read(VA)
    assert machine.entry(VA) & (A | D) == A
    cpu.write(VA, 1)
    assert machine.entry(VA) & D


def test_flags_cleared_in_memory_stay_clear_while_the_entry_is_cached() -> None:
    """SDM 4.8: software that clears them must invalidate, or the processor may not set them again."""
    machine = Machine(Mode.FOUR_LEVEL)
    machine.tables.map(VA, PAGE)
    cpu = LogicalProcessor(machine.memory, machine.registers())
    cpu.write(VA, 1)
    machine.clear_bits(VA, 1, A | D)
    cpu.write(VA, 2)
    assert not machine.entry(VA) & (A | D)
    cpu.invlpg(VA)
    cpu.write(VA, 3)
    assert machine.entry(VA) & (A | D) == A | D


def test_tables_are_cached() -> None:
    """A stale PDE leads to the old page table for every page below it, until INVLPG of any address."""
    machine = Machine(Mode.FOUR_LEVEL)
    machine.tables.map(VA, PAGE)
    machine.tables.map(VA + 0x1000, PAGE)
    cpu = LogicalProcessor(machine.memory, machine.registers())
    cpu.read(VA)
    machine.memory.write(0x70_0000 | (VA + 0x1000 >> 12 & 511) * 8, OTHER | P)
    machine.memory.write(machine.tables.entry_address(VA, 2), 0x70_0000 | P)
    assert is_stale(cpu, VA + 0x1000)
    cpu.invlpg(0x7000_0000)
    assert is_stale(cpu, VA + 0x1000), "the page is still in the TLB"
    cpu.invlpg(VA + 0x1000)
    assert not is_stale(cpu, VA + 0x1000)


def test_the_rights_of_upper_levels_are_cached_with_the_table() -> None:
    machine = Machine(Mode.FOUR_LEVEL)
    machine.tables.map(VA, PAGE)
    machine.tables.map(VA + 0x1000, PAGE)
    cpu = LogicalProcessor(machine.memory, machine.registers())
    cpu.read(VA)
    machine.clear_bits(VA, 3, W)
    cpu.write(VA + 0x1000, 1)


# MOV CR3, PCIDs, global pages


def other_pcid(cpu: LogicalProcessor, pcid: int = 5, keep: int = CR3_NO_FLUSH) -> None:
    cpu.mov_cr3(cpu.registers.cr3 & ~0xFFF | pcid | keep)


def test_mov_cr3_forgets_all_but_global_pages() -> None:
    _, cpu = scene(cr4=CR4_PGE)
    cpu.mov_cr3(cpu.registers.cr3)
    assert not is_stale(cpu)
    _, cpu = scene(flags=P | G, cr4=CR4_PGE)
    cpu.mov_cr3(cpu.registers.cr3)
    assert is_stale(cpu)
    cpu.invlpg(VA)
    assert not is_stale(cpu)


def test_without_pge_no_page_is_global() -> None:
    _, cpu = scene(flags=P | G)
    cpu.mov_cr3(cpu.registers.cr3)
    assert not is_stale(cpu)


def test_mov_cr3_without_pcide_does_not_take_bit_63() -> None:
    _, cpu = scene()
    with pytest.raises(GeneralProtection):
        cpu.mov_cr3(cpu.registers.cr3 | CR3_NO_FLUSH)
    assert is_stale(cpu), "a refused write changes nothing"


def test_each_pcid_has_its_own_translations() -> None:
    _, cpu = scene(cr4=CR4_PCIDE)
    other_pcid(cpu)
    assert not is_stale(cpu)
    other_pcid(cpu, 0)
    assert is_stale(cpu)
    other_pcid(cpu, 0, keep=0)
    assert not is_stale(cpu)


def test_mov_cr3_with_pcids_forgets_only_the_new_one() -> None:
    _, cpu = scene(cr4=CR4_PCIDE)
    other_pcid(cpu, 5, keep=0)
    other_pcid(cpu, 0)
    assert is_stale(cpu)


def test_global_pages_are_shared_by_all_pcids() -> None:
    _, cpu = scene(flags=P | G, cr4=CR4_PCIDE | CR4_PGE)
    other_pcid(cpu)
    assert is_stale(cpu)
    cpu.invlpg(VA)
    other_pcid(cpu, 0)
    assert not is_stale(cpu)


def test_invlpg_leaves_other_pcids_alone() -> None:
    _, cpu = scene(cr4=CR4_PCIDE)
    other_pcid(cpu)
    cpu.invlpg(VA)
    other_pcid(cpu, 0)
    assert is_stale(cpu)


def test_turning_paging_off_forgets_everything() -> None:
    _, cpu = scene(Mode.PAE, flags=P | G, cr4=CR4_PGE)
    cr0 = cpu.registers.cr0
    cpu.mov_cr0(1)
    assert cpu.translate(VA, READ) == VA
    cpu.mov_cr0(cr0)
    assert not is_stale(cpu)


@pytest.mark.parametrize(
    "refused",
    [
        lambda cpu: cpu.invpcid(Invpcid.PCID, 0x1000),
        lambda cpu: cpu.invpcid(Invpcid.PCID, 5),
        lambda cpu: cpu.invpcid(Invpcid.ADDRESS, 0, 1 << 63),
        lambda cpu: cpu.mov_cr4(cpu.registers.cr4 & ~CR4_PAE),
        lambda cpu: cpu.mov_cr4(cpu.registers.cr4 | 1 << 12),
        lambda cpu: cpu.mov_cr0(0x8000_0000),
        lambda cpu: cpu.wrmsr_efer(cpu.registers.efer ^ 0x100),
        lambda cpu: (cpu.mov_cr3(cpu.registers.cr3 | 5), cpu.mov_cr4(cpu.registers.cr4 | CR4_PCIDE)),
        lambda cpu: (cpu.mov_cr4(cpu.registers.cr4 | CR4_PCIDE), cpu.mov_cr0(1)),
    ],
)
def test_what_raises_general_protection(refused: Callable[[LogicalProcessor], object]) -> None:
    _, cpu = scene()
    with pytest.raises(GeneralProtection):
        refused(cpu)


def test_entering_long_mode_step_by_step() -> None:
    """CR4.PAE, EFER.LME, then CR0.PG: LMA follows; without PAE it is refused."""
    machine = Machine(Mode.FOUR_LEVEL)
    machine.tables.map(VA, PAGE)
    cpu = LogicalProcessor(machine.memory)
    cpu.mov_cr3(machine.tables.root)
    cpu.wrmsr_efer(0x100)
    with pytest.raises(GeneralProtection, match="PAE"):
        cpu.mov_cr0(0x8000_0001)
    cpu.mov_cr4(CR4_PAE)
    cpu.mov_cr0(0x8000_0001)
    assert cpu.registers.mode.is_long
    assert cpu.translate(VA, READ) == PAGE
    cpu.mov_cr0(1)
    assert not cpu.registers.mode.is_long


def test_the_pdpte_registers_change_when_cr3_is_loaded() -> None:
    machine, cpu = scene(Mode.PAE)
    machine.clear_bits(VA, 3, P)
    cpu.invlpg(VA)
    cpu.read(VA)
    cpu.set_rights(ac=True)
    cpu.mov_cr3(cpu.registers.cr3)
    with pytest.raises(PageFault):
        cpu.read(VA)


def test_a_refused_load_of_cr3_changes_nothing() -> None:
    machine, cpu = scene(Mode.PAE)
    machine.set_bits(VA, 3, 1 << 5)
    before = cpu.registers
    with pytest.raises(GeneralProtection):
        cpu.mov_cr3(cpu.registers.cr3 | 8)
    assert cpu.registers == before
    assert is_stale(cpu)


# Guests


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
        (lambda cpu: cpu.invvpid(Invvpid.VPID, 1), True),
        (lambda cpu: cpu.invvpid(Invvpid.VPID, 2), False),
        (lambda cpu: cpu.invvpid(Invvpid.VPID_KEEP_GLOBAL, 1), True),
        (lambda cpu: cpu.invvpid(Invvpid.ADDRESS, 1, VA), True),
        (lambda cpu: cpu.invvpid(Invvpid.ADDRESS, 1, VA + 0x1000), False),
        (lambda cpu: cpu.invvpid(Invvpid.ALL), True),
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


def test_invvpid_of_the_host_fails() -> None:
    with pytest.raises(ValueError, match="VPID 0"):
        remapped_guest(EptGuest(Mode.FOUR_LEVEL)).invvpid(Invvpid.VPID, 0)


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


class ProperlyFlushed(RuleBasedStateMachine):
    """A processor whose software invalidates after every change cannot be told from one without caches."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine(Mode.FOUR_LEVEL)
        self.cpu = LogicalProcessor(self.machine.memory, self.machine.registers(cr4=CR4_PGE))

    pages = st.integers(0, 3).map(lambda n: VA + n * 0x1000 + (n >> 1) * 0x20_0000)

    @rule(address=pages, page=st.integers(1, 4), flags=st.integers(0, 7), is_global=st.booleans())
    def remap(self, address: int, page: int, flags: int, is_global: bool) -> None:
        self.machine.tables.map(address, PAGE + page * 0x1000, flags=flags | G * is_global)
        self.cpu.invlpg(address)

    @rule(address=pages, level=st.integers(2, 4), bit=st.sampled_from([W, U]))
    def change_a_table(self, address: int, level: int, bit: int) -> None:
        where = self.machine.tables.entry_address(address, level)
        self.machine.memory.write(where, self.machine.memory.read(where) ^ bit)
        self.cpu.mov_cr4(self.cpu.registers.cr4 ^ CR4_PGE)
        self.cpu.mov_cr4(self.cpu.registers.cr4 ^ CR4_PGE)

    @rule(address=pages, how=st.sampled_from([READ, WRITE, access(Kind.READ, user=True)]))
    def use(self, address: int, how: Access) -> None:
        plain = self.machine.memory.copy()
        paging = LinearPaging(self.cpu.registers)
        without_caches = outcome(lambda: walk(plain, paging, how, address).address)
        assert outcome(lambda: self.cpu.translate(address, how)) == without_caches
        assert self.machine.memory == plain


def outcome(translate: Callable[[], int]) -> int | str:
    try:
        return translate()
    except PageFault as fault:
        return str(fault)


ProperlyFlushed.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestProperlyFlushed = ProperlyFlushed.TestCase
