"""What a processor remembers of its walks, and which instruction makes it forget what."""

import pytest

from conformance.hardware.machine import (
    MODES,
    PAGE,
    VA,
    Machine,
    table_levels,
)
from mmu_model.hardware import (
    CR0_WP,
    CR4_PAE,
    CR4_PCIDE,
    CR4_PGE,
    GeneralProtection,
    Invpcid,
    Kind,
    LogicalProcessor,
    Mode,
    PageFault,
    access,
)
from mmu_model.hardware.control import CR3_NO_FLUSH
from mmu_model.hardware.tables import PageTables, frames_from

P, W, A, D, G = 1, 2, 1 << 5, 1 << 6, 1 << 8
OTHER = 0x9000_0000
READ = access(Kind.READ)


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


@pytest.mark.parametrize(
    ("mode", "level"), [(mode, level) for mode in MODES for level in table_levels(mode) if level > 1], ids=str
)
def test_after_a_fault_every_table_is_read_again(mode: Mode, level: int) -> None:
    """Software may have put another table in the place of any of them."""
    machine = Machine(mode)
    machine.tables.map(VA, PAGE, flags=0)
    other = PageTables(machine.memory, mode, frames_from(0x70_0000))
    other.map(VA, OTHER)
    cpu = LogicalProcessor(machine.memory, machine.registers())
    with pytest.raises(PageFault):
        cpu.read(VA)

    entry = machine.memory.read(other.entry_address(VA, level), machine.entry_size)
    machine.memory.write(machine.tables.entry_address(VA, level), entry, machine.entry_size)

    assert cpu.translate(VA, READ) == OTHER


def test_a_fault_forgets_nothing_about_other_addresses() -> None:
    """SDM 4.10.4.1: the page, and the tables that a walk of that address would use; all others stay."""
    machine = Machine(Mode.FOUR_LEVEL)
    near, neighbour, far = VA, VA + 0x1000, VA + (1 << 39)
    for address in (near, neighbour, VA + 0x3000):
        machine.tables.map(address, PAGE)
    cpu = LogicalProcessor(machine.memory, machine.registers())
    cpu.read(near)
    machine.tables.map(near, OTHER)
    machine.clear_bits(near, 2, P)

    with pytest.raises(PageFault):
        cpu.read(far)

    assert is_stale(cpu, near)
    assert is_stale(cpu, neighbour), "by the table that is remembered"
    with pytest.raises(PageFault):
        cpu.read(VA + 0x2000)
    assert is_stale(cpu, near)
    with pytest.raises(PageFault):
        cpu.read(VA + 0x3000)  # which the table would have led to


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


def test_invlpg_of_any_address_forgets_all_tables() -> None:
    """SDM 4.10.4.1: those of the current PCID; a page fault does not."""
    machine = Machine(Mode.FOUR_LEVEL)
    machine.tables.map(VA, PAGE)
    cpu = LogicalProcessor(machine.memory, machine.registers())
    cpu.read(VA)
    machine.memory.write(0x70_0000 | (VA + 0x1000 >> 12 & 511) * 8, OTHER | P)
    machine.memory.write(machine.tables.entry_address(VA, 2), 0x70_0000 | P)

    cpu.invlpg(0x7000_0000)

    assert not is_stale(cpu, VA + 0x1000)
    assert is_stale(cpu, VA)


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


@pytest.mark.parametrize("bit", [6, 7, 8])
def test_pge_is_bit_7(bit: int) -> None:
    """SDM vol. 3, 2.5."""
    _, cpu = scene(flags=P | G, cr4=1 << bit)
    cpu.mov_cr3(cpu.registers.cr3)
    assert is_stale(cpu) is (bit == 7)


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


@pytest.mark.parametrize(
    ("kind", "forgets_global"), [(0, False), (1, False), (2, True), (3, False)], ids=["0", "1", "2", "3"]
)
def test_the_types_of_invpcid(kind: int, forgets_global: bool) -> None:
    """SDM vol. 2: an address and a PCID; a PCID; everything; everything that is not global."""
    for flags, expected in ((P, True), (P | G, forgets_global)):
        _, cpu = scene(flags=flags, cr4=CR4_PGE | CR4_PCIDE)
        cpu.invpcid(Invpcid(kind), 0, VA)
        assert is_stale(cpu) is not expected
        _, cpu = scene(flags=flags, cr4=CR4_PGE | CR4_PCIDE)
        cpu.invpcid(Invpcid(kind), 5, VA)
        assert is_stale(cpu) is not (expected and kind >= 2)
