"""Accessed and dirty flags: which accesses set which, and where (SDM vol. 3, 4.8)."""

import pytest

from conformance.hardware.machine import (
    MAXPHYADDR,
    VA,
    Machine,
    by_mode_and_level,
    error_code,
    mapped,
    table_levels,
)
from mmu_model.hardware import (
    ERROR_P,
    ERROR_US,
    ERROR_WR,
    Kind,
    Mode,
    PhysicalMemory,
    Translation,
    access,
)

P, W, A, D = 1, 2, 1 << 5, 1 << 6
READ, WRITE = access(Kind.READ), access(Kind.WRITE)
USER_WRITE = access(Kind.WRITE, user=True)


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
