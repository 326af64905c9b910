"""Accesses of 1, 2, 4 or 8 bytes to memory that is made of words of 4 and 8."""

from typing import Protocol


class Words(Protocol):
    """Memory of words."""

    def read(self, address: int, size: int = 8) -> int:
        """The word at an address."""

    def write(self, address: int, value: int, size: int = 8) -> None:
        """Store a word at an address."""


def load(memory: Words, address: int, size: int) -> int:
    """The `size` bytes at an address; they must not cross a multiple of 8."""
    if size in (4, 8) and not address % size:
        return memory.read(address, size)
    return memory.read(address & ~7) >> _shift(address, size) & _mask(size)


def store(memory: Words, address: int, value: int, size: int) -> None:
    """Store the low `size` bytes of a value at an address; they must not cross a multiple of 8."""
    if size in (4, 8) and not address % size:
        memory.write(address, value & _mask(size), size)
        return
    shift, word = _shift(address, size), memory.read(address & ~7)
    memory.write(address & ~7, word & ~(_mask(size) << shift) | (value & _mask(size)) << shift)


def _mask(size: int) -> int:
    return (1 << 8 * size) - 1


def _shift(address: int, size: int) -> int:
    if size not in (1, 2, 4, 8) or address % 8 + size > 8:
        raise ValueError(f"an access of {size} bytes at {address:#x}: 1, 2, 4 or 8 within 8 are possible")
    return 8 * (address % 8)
