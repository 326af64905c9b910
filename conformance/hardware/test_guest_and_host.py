"""A processor goes into a guest and comes back: what it is loaded with (APM vol. 2, 15.5; SDM vol. 3, 27 and 28)."""

import pytest

from conformance.hardware.guest import GPA, HOST_OFFSET, VA, NptGuest
from mmu_model.hardware import LogicalProcessor, Mode


@pytest.mark.parametrize("mode", [Mode.OFF, Mode.PAE, Mode.FOUR_LEVEL])
def test_an_exit_brings_the_registers_that_the_host_had_at_the_entry(mode: Mode) -> None:
    """Not those that it began with: it has loaded CR3 since, and does so again before it enters once more."""
    guest = NptGuest(mode, Mode.FOUR_LEVEL)
    cpu = LogicalProcessor(guest.memory)
    for root in (guest.host.root, guest.host.root + 0x10_0000):
        cpu.mov_cr3(root)
        loaded = cpu.registers
        cpu.enter_guest(guest.registers, guest.paging)
        assert cpu.registers == guest.registers
        assert cpu.read(VA) == guest.memory.read((VA if mode is Mode.OFF else GPA) + HOST_OFFSET)

        assert cpu.exit_guest() == guest.registers

        assert cpu.registers == loaded
