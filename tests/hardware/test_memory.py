"""Physical memory: sparse words, little-endian, bounded."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmu_model.hardware import Pfn, PhysicalMemory

words = st.tuples(
    st.integers(0, (1 << 40) // 8 - 1).map(lambda n: n * 8) | st.integers(0, 2048).map(lambda n: n * 8),
    st.integers(0, 2**64 - 1),
)


@given(st.lists(words))
def test_memory_holds_what_was_written_last(writes: list[tuple[int, int]]) -> None:
    memory = PhysicalMemory(40)
    for address, value in writes:
        memory.write(address, value)
    for address, value in dict(writes).items():
        assert memory.read(address) == value
        assert memory.read(address, 4) | memory.read(address + 4, 4) << 32 == value


def test_a_word_never_written_is_zero() -> None:
    memory = PhysicalMemory(52)
    assert memory.read(0) == memory.read((1 << 52) - 8) == 0
    assert list(memory.frames()) == []


def test_four_bytes_leave_the_other_four_alone() -> None:
    memory = PhysicalMemory()
    memory.write(0x1000, 0x1111_1111_2222_2222)
    memory.write(0x1004, 0x3333_3333, 4)
    assert memory.read(0x1000) == 0x3333_3333_2222_2222


@pytest.mark.parametrize(
    ("address", "size", "complaint"),
    [
        (0x1004, 8, "multiple of 8"),
        (0x1002, 4, "multiple of 4"),
        (1 << 40, 8, r"not below 2\*\*40"),
        (-8, 8, "not below"),
        (0x1000, 3, "3 bytes"),
    ],
)
def test_what_is_no_access(address: int, size: int, complaint: str) -> None:
    memory = PhysicalMemory(40)
    memory.write(0x1000, 1)
    with pytest.raises(ValueError, match=complaint):
        memory.read(address, size)
    with pytest.raises(ValueError, match=complaint):
        memory.write(address, 0, size)


def test_a_value_must_fit() -> None:
    with pytest.raises(ValueError, match="does not fit in 4 bytes"):
        PhysicalMemory().write(0, 1 << 32, 4)


@pytest.mark.parametrize("bits", [31, 53])
def test_maxphyaddr_is_from_32_to_52(bits: int) -> None:
    with pytest.raises(ValueError, match="MAXPHYADDR"):
        PhysicalMemory(bits)


def test_compare_exchange_stores_only_over_what_was_expected() -> None:
    memory = PhysicalMemory()
    memory.write(0x2000, 5)
    assert not memory.compare_exchange(0x2000, 4, 9)
    assert memory.read(0x2000) == 5
    assert memory.compare_exchange(0x2000, 5, 9)
    assert memory.read(0x2000) == 9


def test_a_released_frame_is_zero_and_its_room_is_used_again() -> None:
    memory = PhysicalMemory()
    memory.write(0x5000, 1)
    size = len(memory.words)
    for _ in range(1000):
        memory.release(Pfn(5))
        assert memory.read(0x5000) == 0
        memory.write(0x5008, 7)
        assert memory.read(0x5000) == 0
    assert len(memory.words) == size


@pytest.mark.parametrize(
    "duplicate", [PhysicalMemory.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_a_copy_is_equal_and_independent(duplicate) -> None:  # type: ignore[no-untyped-def]
    memory = PhysicalMemory()
    memory.write(0x5000, 1)
    twin = duplicate(memory)
    assert twin == memory
    twin.write(0x5000, 2)
    assert twin != memory
    assert memory.read(0x5000) == 1
