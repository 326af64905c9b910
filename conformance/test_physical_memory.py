"""Physical memory: bytes of every size where they belong, and nothing where no memory can be."""

import copy
import pickle
from collections.abc import Callable

import pytest

from mmu_model.hardware import PhysicalMemory
from mmu_model.hardware.types import Pfn

HERE = 0x5000
WORD = 0x1122_3344_5566_7788


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_every_part_of_a_word_is_where_it_belongs(size: int) -> None:
    """The lowest byte first, and no part touches another."""
    memory = PhysicalMemory(40)
    memory.write(HERE, WORD)
    for at in range(0, 8, size):
        assert memory.read(HERE + at, size) == WORD >> at * 8 & (1 << size * 8) - 1

    for at in range(0, 8, size):
        changed = WORD & ~(((1 << size * 8) - 1) << at * 8)
        memory.write(HERE + at, 0, size)
        assert memory.read(HERE) == changed
        memory.write(HERE, WORD)
    assert memory.read(HERE - 8) == memory.read(HERE + 8) == 0


@pytest.mark.parametrize(
    ("address", "size"),
    [(HERE + 1, 2), (HERE + 2, 4), (HERE + 4, 8), (HERE + 1, 8), (1 << 40, 8), (-8, 8), (HERE, 3)],
)
def test_what_is_no_access(address: int, size: int) -> None:
    """Not aligned, beyond the last address, of no size that there is."""
    memory = PhysicalMemory(40)
    for used in (False, True):
        if used:
            memory.write(HERE, 1)
        with pytest.raises(ValueError, match=r"0x|bytes"):
            memory.read(address, size)
        with pytest.raises(ValueError, match=r"0x|bytes"):
            memory.write(address, 0, size)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_what_does_not_fit_is_not_stored(size: int) -> None:
    """One bit too many."""
    memory = PhysicalMemory(40)
    memory.write(HERE, (1 << size * 8) - 1, size)
    with pytest.raises(ValueError, match="does not fit"):
        memory.write(HERE, 1 << size * 8, size)
    assert memory.read(HERE) == (1 << size * 8) - 1


@pytest.mark.parametrize(("width", "exists"), [(31, False), (32, True), (52, True), (53, False)])
def test_the_width_of_addresses(width: int, exists: bool) -> None:
    """The last word of memory can be used."""
    if not exists:
        with pytest.raises(ValueError, match="MAXPHYADDR"):
            PhysicalMemory(width)
        return
    memory = PhysicalMemory(width)
    memory.write((1 << width) - 8, WORD)
    assert memory.read((1 << width) - 8) == WORD


def test_a_word_is_exchanged_if_it_is_what_was_expected() -> None:
    """Else it stays."""
    memory = PhysicalMemory(40)
    memory.write(HERE, 1)
    assert not memory.compare_exchange(HERE, 0, 2)
    assert memory.read(HERE) == 1
    assert memory.compare_exchange(HERE, 1, 2)
    assert memory.read(HERE) == 2


def test_frames_are_filled_released_and_copied() -> None:
    """A released frame reads as zeroes, and whoever comes next finds none of its words."""
    memory, first, last = PhysicalMemory(40), 0x5000, 0x5FF8
    memory.fill(Pfn(5), WORD)
    assert memory.read(first) == memory.read(last) == WORD
    assert memory.read(first - 8) == memory.read(last + 8) == 0
    assert memory.frame(Pfn(5)).tolist() == [WORD] * 512
    twin = memory.copy()
    assert twin == memory
    twin.write(first, 1)
    assert twin != memory
    assert memory.read(first) == WORD

    memory.release(Pfn(5))
    assert memory.read(first) == 0
    memory.write(0x9000, 1)
    assert memory.frame(Pfn(9)).tolist() == [1, *[0] * 511]
    assert list(memory.frames()) == [Pfn(9)]


def test_a_frame_that_is_filled_ends_where_the_next_begins() -> None:
    """Whether that one was there before, or comes later."""
    memory = PhysicalMemory(40)
    memory.write(0x4000, 4)
    memory.write(HERE, 5)
    memory.write(0x6000, 6)

    memory.fill(Pfn(5), WORD)
    memory.write(0x7008, 7)

    assert [memory.read(at) for at in (0x4000, 0x4FF8, HERE, 0x5FF8)] == [4, 0, WORD, WORD]
    assert [memory.read(at) for at in (0x6000, 0x6008, 0x7000, 0x7008, 0x7FF8)] == [6, 0, 0, 7, 0]


def test_many_frames() -> None:
    """More than there is room for in the beginning; each keeps its own."""
    memory = PhysicalMemory(40)
    for pfn in range(3000):
        memory.write(pfn << 12 | (pfn & 511) << 3, pfn + 1)
    assert [memory.read(pfn << 12 | (pfn & 511) << 3) for pfn in range(3000)] == list(range(1, 3001))
    assert sum(int(word) for word in memory.frame(Pfn(2999))) == 3000


def test_the_room_of_a_released_frame_is_used_again() -> None:
    """Memory does not grow with what it has forgotten."""
    memory = PhysicalMemory()
    memory.write(HERE, 1)
    size = len(memory.words)
    for _ in range(100):
        memory.release(Pfn(5))
        assert memory.read(HERE) == 0
        memory.write(HERE + 8, 7)
        assert memory.read(HERE) == 0
    assert len(memory.words) == size


def moved(memory: PhysicalMemory) -> PhysicalMemory:
    """To another process and back."""
    twin: PhysicalMemory = pickle.loads(pickle.dumps(memory))
    return twin


@pytest.mark.parametrize("duplicate", [PhysicalMemory.copy, copy.deepcopy, moved])
def test_a_copy_goes_its_own_way(duplicate: Callable[[PhysicalMemory], PhysicalMemory]) -> None:
    """It is equal, bounded as the other one, and shares neither words nor room."""
    memory = PhysicalMemory(40)
    for pfn in (5, 6, 7):
        memory.fill(Pfn(pfn), WORD)
    memory.release(Pfn(6))

    twin = duplicate(memory)

    assert twin == memory
    twin.write(HERE, 2)
    assert twin != memory
    assert memory.read(HERE) == WORD
    for one in (memory, twin):
        one.write(0x9000, 3)
        one.write(0xA000, 4)
    for address in (HERE + 8, 0x5FF8, 0x7008):
        assert [one.read(address) for one in (memory, twin)] == [WORD, WORD]
    assert [one.read(0x9008) for one in (memory, twin)] == [0, 0]
    assert set(twin.frames()) == set(memory.frames()) == {5, 7, 9, 10}
    with pytest.raises(ValueError, match="not below 2"):
        twin.read(1 << 40)


def test_a_frame_of_zeroes_is_as_good_as_none() -> None:
    """Two memories are equal by what one reads; nothing else is a memory."""
    memory, empty = PhysicalMemory(40), PhysicalMemory(40)
    memory.write(HERE, 0)
    assert memory == empty
    assert empty == memory
    memory.write(HERE, 1)
    assert memory != empty
    assert empty != memory
    assert memory != 1
