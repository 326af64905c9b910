"""The batch walk against the single walk, address by address: result, error code, and every word of
memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from conformance.hardware.machine import CR4
from mmu_model.hardware import (
    ACCESSES,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_PKE,
    CR4_PKS,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_NXE,
    Access,
    GeneralProtection,
    LinearPaging,
    Mode,
    PageFault,
    PhysicalMemory,
    Registers,
    walk,
)
from mmu_model.hardware.batch import GENERAL_PROTECTION, NO_FAULT, walk_batch
from mmu_model.hardware.frame_index import FrameIndex

MAXPHYADDR = 46
LOW_FRAMES = [0x10_0000, 0x20_0000]
HIGH_FRAMES = [0x10_0000, 0x3_0000_0000, 1 << 45]


def random_tables(rng: np.random.Generator, mode: Mode, frames: list[int]) -> tuple[PhysicalMemory, int]:
    """A few frames of entries that are mostly sane, pointing at each other, and the address of a root.

    Entries serve at several levels, so that all kinds of page, recursion and reserved bits come about.
    """
    memory = PhysicalMemory(MAXPHYADDR)
    size = 4 if mode is Mode.THIRTY_TWO_BIT else 8
    addresses = [start + n * 0x1000 for start in frames for n in range(3)]
    if mode is Mode.THIRTY_TWO_BIT:
        addresses = [address & 0xFFFF_FFFF for address in addresses]
    for address in addresses:
        for index in range(16):
            entry = int(rng.choice(addresses)) | 7
            for bit, chance in ((0, 0.1), (1, 0.2), (2, 0.2), (5, 0.5), (6, 0.5), (7, 0.2)):
                entry ^= (rng.random() < chance) << bit
            if size == 8:
                for bit, chance in ((63, 0.1), (50, 0.03), (13, 0.03), (60, 0.3), (8, 0.2)):
                    entry ^= (rng.random() < chance) << bit
            memory.write(address + index * size, entry, size)
    if mode is Mode.PAE:
        for index in range(4):
            memory.write(0x5000 + index * 8, int(rng.choice(addresses)) | (rng.random() < 0.8))
        return memory, 0x5000
    return memory, addresses[0]


def random_addresses(rng: np.random.Generator, mode: Mode, count: int) -> NDArray[np.uint64]:
    """Addresses whose indices are below 16 at every level, and some that are not canonical."""
    address = rng.integers(0, 0x1000, count, dtype=np.uint64)
    shifts = (22, 12) if mode is Mode.THIRTY_TWO_BIT else (48, 39, 30, 21, 12) if mode.is_long else (21, 12)
    for shift in shifts:
        address |= rng.integers(0, 16, count, dtype=np.uint64) << np.uint64(shift)
    if mode is Mode.PAE:
        address |= rng.integers(0, 4, count, dtype=np.uint64) << np.uint64(30)
    if mode is Mode.FOUR_LEVEL:
        address &= np.uint64(0x0000_7FFF_FFFF_FFFF) | rng.choice(
            np.array([0, 1 << 49], np.uint64), count, p=[0.95, 0.05]
        )
    return address


@pytest.mark.parametrize("frames", [LOW_FRAMES, HIGH_FRAMES], ids=["low", "high"])
@pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.value)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), how=st.sampled_from(ACCESSES), controls=st.integers(0, 255))
def test_a_batch_is_its_walks(mode: Mode, frames: list[int], seed: int, how: Access, controls: int) -> None:
    rng = np.random.default_rng(seed)
    memory, root = random_tables(rng, mode, frames)
    options = (CR4_SMEP, CR4_SMAP, CR4_PKE, CR4_PKS, CR4_PSE)
    cr4 = CR4[mode] & ~CR4_PSE | sum(bit for n, bit in enumerate(options) if controls >> n & 1)
    registers = Registers(
        cr0=0 if mode is Mode.OFF else CR0_PE | CR0_PG | CR0_WP * (controls >> 5 & 1),
        cr3=root,
        cr4=cr4,
        efer=EFER_LMA * mode.is_long | EFER_NXE * (controls >> 6 & 1),
        ac=bool(controls >> 7),
        pkru=int(rng.integers(0, 2**32)),
        pkrs=int(rng.integers(0, 2**32)),
        maxphyaddr=MAXPHYADDR,
    )
    pdptes = tuple(memory.read(root + 8 * n) for n in range(4)) if mode is Mode.PAE else None
    paging = LinearPaging(registers, pdptes)  # type: ignore[arg-type]
    addresses = random_addresses(rng, mode, 300)
    one_by_one = memory.copy()

    walks = walk_batch(memory, paging, how, addresses)

    faults = []
    for number, address in enumerate(addresses.tolist()):
        try:
            assert walks.address[number] == walk(one_by_one, paging, how, address).address
            fault = NO_FAULT
        except GeneralProtection:
            fault = GENERAL_PROTECTION
        except PageFault as raised:
            fault = raised.error_code
        faults.append(fault)
    assert walks.fault.tolist() == faults
    assert memory == one_by_one


def test_the_batches_above_are_worth_something() -> None:
    """Random tables give successes and faults of several kinds at once."""
    rng = np.random.default_rng(1)
    memory, root = random_tables(rng, Mode.FOUR_LEVEL, LOW_FRAMES)
    registers = Registers(
        cr0=CR0_PE | CR0_PG, cr3=root, cr4=CR4[Mode.FOUR_LEVEL], efer=EFER_LMA | EFER_NXE, maxphyaddr=46
    )
    addresses = random_addresses(rng, Mode.FOUR_LEVEL, 5000)
    walks = walk_batch(memory, LinearPaging(registers), ACCESSES[4], addresses)
    assert {NO_FAULT, GENERAL_PROTECTION, 0b0110, 0b0111, 0b1111} <= set(walks.fault.tolist())


@given(st.dictionaries(st.integers(0, 2**40 - 1) | st.integers(0, 300), st.integers(1, 2**40)), st.data())
@settings(deadline=None)
def test_every_frame_is_found_and_no_other(bases: dict[int, int], data: st.DataObject) -> None:
    pfns = list(bases) + data.draw(st.lists(st.integers(0, 2**40 - 1) | st.integers(0, 300)))
    found = FrameIndex(bases).base(np.array(pfns, np.int64))
    assert found.tolist() == [bases.get(pfn, 0) for pfn in pfns]
