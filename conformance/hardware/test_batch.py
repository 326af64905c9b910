"""Walks on arrays: how many there can be, and what they do not take."""

import pickle

import numpy as np
import pytest

from conformance.hardware.machine import PAGE, VA, Machine
from mmu_model.hardware import (
    ACCESSES,
    CR0_PE,
    CR0_PG,
    CR4_PAE,
    CR4_PKE,
    CR4_PKS,
    Access,
    Kind,
    LinearPaging,
    Mode,
    PageFault,
    PhysicalMemory,
    Registers,
    access,
    walk,
)
from mmu_model.hardware.batch import NO_FAULT, walk_batch
from mmu_model.hardware.types import Pfn

READ = access(Kind.READ)


def test_a_batch_may_be_large() -> None:
    """Each of many thousand addresses ends where it would alone."""
    machine = Machine(Mode.FOUR_LEVEL)
    machine.tables.map(0x20_0000, 0x4000_0000, level=2)
    addresses = np.arange(50_000, dtype=np.uint64) * np.uint64(32) + np.uint64(0x20_0000)

    walks = walk_batch(machine.memory, LinearPaging(machine.registers()), READ, addresses)

    assert (walks.fault == NO_FAULT).all()
    assert np.array_equal(walks.address, addresses + np.uint64(0x3FE0_0000))


def single(memory: PhysicalMemory, paging: LinearPaging, how: Access, address: int) -> tuple[int, int]:
    """Where a walk by itself leads, and its fault."""
    try:
        return walk(memory, paging, how, address).address, NO_FAULT
    except PageFault as fault:
        return 0, fault.error_code


@pytest.mark.parametrize("how", ACCESSES, ids=lambda how: f"{how.kind.value} {how.index}")
def test_every_high_bit_of_an_entry_means_what_it_does_alone(how: Access) -> None:
    """Bits 62:52, of which 62:59 are a key, with all rights that there are."""
    machine = Machine(Mode.FOUR_LEVEL)
    cases = [(flags, bit) for flags in range(1, 8, 2) for bit in range(52, 64)]
    for number, (flags, bit) in enumerate(cases):
        machine.tables.map(VA + number * 0x1000, PAGE, flags=flags | 1 << bit)
    registers = machine.registers(cr4=CR4_PKE | CR4_PKS, pkru=0x0002_0004, pkrs=0x0001_0008)
    paging = LinearPaging(registers)
    addresses = np.arange(len(cases), dtype=np.uint64) * np.uint64(0x1000) + np.uint64(VA)
    alone = machine.memory.copy()

    walks = walk_batch(machine.memory, paging, how, addresses)

    ends = [single(alone, paging, how, address) for address in addresses.tolist()]
    assert list(zip(walks.address.tolist(), walks.fault.tolist(), strict=True)) == ends
    assert machine.memory == alone


def test_what_a_batch_does_not_take() -> None:
    """PAE paging needs its PDPTE registers; outside long mode an address has 32 bits."""
    pae = Registers(cr0=CR0_PE | CR0_PG, cr4=CR4_PAE)
    with pytest.raises(ValueError, match="PDPTE registers"):
        walk_batch(PhysicalMemory(), LinearPaging(pae), READ, np.zeros(1, np.uint64))
    for wide in (1 << 32, 1 << 63):
        with pytest.raises(ValueError, match="32 bits"):
            walk_batch(PhysicalMemory(), LinearPaging(Registers()), READ, np.array([0, wide], np.uint64))
    last = np.array([0xFFFF_FFFF], np.uint64)
    assert walk_batch(PhysicalMemory(), LinearPaging(Registers()), READ, last).address == last


@pytest.mark.parametrize(
    "pfns",
    [
        [],
        [0],
        [5, 7, 0xF_FFFF],  # the last one below 4 GiB
        [5, 7, 0x10_0000],  # and the first one above
        [0x1_0000, 0x1_FFFF, 0x2_0000, 0x10_0005, 0xFF_FFFF_FFFF],
        [0xFF_FFFF_0000],
    ],
    ids=str,
)
def test_each_frame_is_found_wherever_it_lies(pfns: list[int]) -> None:
    """And what lies next to it reads as zeroes, and so does what is beyond the last one."""
    memory = PhysicalMemory(52)
    for pfn in pfns:
        memory.write(pfn << 12, pfn + 1)
    asked = {
        *pfns,
        *(pfn + 1 for pfn in pfns),
        *(max(pfn - 1, 0) for pfn in pfns),
        3,
        0x20_0003,
        (1 << 40) - 1,
    }

    bases = memory.frame_index().base(np.array(sorted(asked), np.int64))

    found = memory.words[bases].tolist()
    assert found == [pfn + 1 if pfn in pfns else 0 for pfn in sorted(asked)]


def test_frames_that_come_and_go_are_found_or_not() -> None:
    """Whatever was asked before."""
    memory = PhysicalMemory(40)

    def at(pfn: int) -> int:
        return int(memory.words[memory.frame_index().base(np.array([pfn], np.int64))][0])

    assert at(5) == 0
    memory.write(0x5000, 1)
    assert at(5) == 1
    memory.fill(Pfn(6), 2)
    assert [at(5), at(6)] == [1, 2]
    memory.release(Pfn(5))
    assert [at(5), at(6)] == [0, 2]


def test_frames_are_found_in_a_copy_too() -> None:
    """One made here, and one that was sent to another process."""
    memory = PhysicalMemory(40)
    memory.write(0x5000, 1)
    memory.frame_index()
    for twin in (memory.copy(), pickle.loads(pickle.dumps(memory))):
        assert twin.words[twin.frame_index().base(np.array([4, 5], np.int64))].tolist() == [0, 1]
        twin.write(0x4000, 2)
        assert twin.words[twin.frame_index().base(np.array([4, 5], np.int64))].tolist() == [2, 1]
