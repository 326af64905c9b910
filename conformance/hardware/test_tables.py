"""Page tables as a guest's kernel writes them: where an entry is, which tables are made, and from what."""

import pytest

from conformance.hardware.machine import MODES, VA, Machine
from mmu_model.hardware import Mode, PhysicalMemory
from mmu_model.hardware.tables import PageTables, frames_from

LEVELS = {Mode.THIRTY_TWO_BIT: 2, Mode.PAE: 3, Mode.FOUR_LEVEL: 4, Mode.FIVE_LEVEL: 5}


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_one_table_a_level_is_made_and_no_second_one(mode: Mode) -> None:
    """The first frame is the root, the others follow from the top down."""
    machine = Machine(mode)
    levels = LEVELS[mode]

    where = machine.tables.map(VA, 0x9000)
    machine.tables.map(VA + 0x1000, 0xA000)

    assert sorted(machine.memory.frames()) == [0x100 + n for n in range(levels)]
    assert machine.tables.root == 0x10_0000
    for level in range(2, levels + 1):
        table = 0x10_0000 + (levels - level + 1) * 0x1000
        flags = 1 if (mode, level) == (Mode.PAE, 3) else 7  # a PDPTE of PAE paging has neither R/W nor U/S
        assert machine.entry(VA, level) == table | flags
    assert where == machine.tables.entry_address(VA, 1)
    assert machine.entry(VA) == 0x9007
    assert machine.tables.entry_address(VA + 0x1000, 1) == where + machine.entry_size


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_there_is_no_level_above_the_root(mode: Mode) -> None:
    """Nor a page of that size."""
    with pytest.raises(ValueError, match=f"no level {LEVELS[mode] + 1}"):
        Machine(mode).tables.map(VA, 0, LEVELS[mode] + 1)


def test_a_page_that_is_mapped_anew_takes_the_place_of_the_old_one() -> None:
    """And a large page has PS, whatever it is mapped with."""
    machine = Machine(Mode.FOUR_LEVEL)
    machine.tables.map(VA, 0x9000)
    machine.tables.map(VA, 0x6000, flags=1)
    assert machine.entry(VA) == 0x6001
    machine.tables.map(1 << 30, 1 << 31, level=3)
    assert machine.entry(1 << 30, 3) == 1 << 31 | 0x87


def test_frames_are_taken_one_after_the_other() -> None:
    """From where one says."""
    memory = PhysicalMemory()
    tables = PageTables(memory, Mode.THIRTY_TWO_BIT, frames_from(0x8000))
    for address in (0, 1 << 22, 1 << 23):
        tables.map(address, address)
    assert [tables.entry_address(address, 1) for address in (0, 1 << 22, 1 << 23)] == [0x9000, 0xA000, 0xB000]
