"""Accesses of 1, 2, 4 or 8 bytes to memory that is made of words of 8."""

from typing import Protocol


class Words(Protocol):
    """Memory of words."""

    def read(self, address: int) -> int:
        """The word at an address."""

    def write(self, address: int, value: int) -> None:
        """Store a word at an address."""


def load(memory: Words, address: int, size: int) -> int:
    """The `size` bytes at an address; they must not cross a multiple of 8."""
    return memory.read(address & ~7) >> _shift(address) & _mask(size)


def store(memory: Words, address: int, value: int, size: int) -> None:
    """Store a value of `size` bytes at an address; they must not cross a multiple of 8."""
    word, shift = memory.read(address & ~7), _shift(address)
    memory.write(address & ~7, word & ~(_mask(size) << shift) | value << shift)


def _mask(size: int) -> int:
    return (1 << 8 * size) - 1


def _shift(address: int) -> int:
    return 8 * (address % 8)
