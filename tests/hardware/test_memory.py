"""Physical memory: sparse words, little-endian, bounded."""

from hypothesis import given
from hypothesis import strategies as st

from mmu_model.hardware import PhysicalMemory

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
