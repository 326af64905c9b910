"""Physical memory: sparse, little-endian, made of frames of 512 words of 8 bytes."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mmu_model.hardware.frame_index import FrameIndex
from mmu_model.hardware.types import PAGE_SHIFT, WORDS_PER_FRAME, Pfn

_INITIAL_FRAMES = 16
_LOW = {size: (1 << 8 * size) - 1 for size in (1, 2, 4, 8)}
"""By size in bytes, the bits of a word that so many bytes fill."""


class PhysicalMemory:
    """Memory from 0 to 2**`maxphyaddr`; a word never written reads as 0.

    All frames that exist lie one after the other in one array, so that a batch of reads is one NumPy gather
    and a copy of the memory is one copy of the array. The first 512 words of the array are the frame of
    zeroes that every frame not written yet shares.

    Parameters
    ----------
    maxphyaddr :
        The number of physical-address bits, 32 to 52 (SDM vol. 3, 4.1.4: CPUID.80000008H:EAX[7:0]).

    """

    def __init__(self, maxphyaddr: int = 52) -> None:
        if not 32 <= maxphyaddr <= 52:
            raise ValueError(f"MAXPHYADDR is {maxphyaddr}, it must be from 32 to 52")
        self.maxphyaddr = maxphyaddr
        self._base: dict[int, int] = {}
        self._free: list[int] = []
        self._used = WORDS_PER_FRAME
        self._index: FrameIndex | None = None
        self._adopt(np.zeros(_INITIAL_FRAMES * WORDS_PER_FRAME, np.uint64))

    def _adopt(self, words: NDArray[np.uint64]) -> None:
        self.words = words
        # A memoryview gives Python integers, several times faster than the array itself does.
        self._view = memoryview(words.data)

    def read(self, address: int, size: int = 8) -> int:
        """The `size` (1, 2, 4 or 8) bytes at the naturally aligned `address`.

        Raises
        ------
        ValueError
            The address is not aligned, not below 2**MAXPHYADDR, or the size is another.

        """
        base = self._base.get(address >> PAGE_SHIFT)
        if size == 8 and base and not address & 7:
            return self._view[base + (address >> 3 & 511)]
        self._check(address, size)
        word = self._view[(base or 0) + (address >> 3 & 511)]
        return word >> (address & 8 - size) * 8 & _LOW[size]

    def write(self, address: int, value: int, size: int = 8) -> None:
        """Store `value` in the `size` (1, 2, 4 or 8) bytes at `address`; errors as for :meth:`read`."""
        base = self._base.get(address >> PAGE_SHIFT)
        if size == 8 and base and not address & 7 and not value >> 64:
            self._view[base + (address >> 3 & 511)] = value
            return
        self._check(address, size)
        if value >> size * 8:
            raise ValueError(f"{value:#x} does not fit in {size} bytes")
        index = (base or self._add_frame(address >> PAGE_SHIFT)) + (address >> 3 & 511)
        if size < 8:
            shift = (address & 8 - size) * 8
            value = self._view[index] & ~(_LOW[size] << shift) | value << shift
        self._view[index] = value

    def compare_exchange(self, address: int, expected: int, value: int, size: int = 8) -> bool:
        """Store `value` if the memory still holds `expected`, as one locked operation; say whether it did."""
        if self.read(address, size) != expected:
            return False
        self.write(address, value, size)
        return True

    def fill(self, pfn: Pfn, word: int) -> None:
        """Store `word` in all 512 words of a frame."""
        base = self._base.get(pfn) or self._add_frame(pfn)
        self.words[base : base + WORDS_PER_FRAME] = word

    def release(self, pfn: Pfn) -> None:
        """Forget the contents of a frame: it reads as zeroes again and takes no room."""
        base = self._base.pop(pfn, 0)
        if base:
            # An index that still finds it finds zeroes, until a frame is added, which makes a new index.
            self.words[base : base + WORDS_PER_FRAME] = 0
            self._free.append(base)

    def frame(self, pfn: Pfn) -> NDArray[np.uint64]:
        """A copy of the 512 words of a frame."""
        base = self._base.get(pfn, 0)
        return self.words[base : base + WORDS_PER_FRAME].copy()

    def frames(self) -> Iterator[Pfn]:
        """The frames that exist: written at least once and not released since."""
        return map(Pfn, self._base)

    def frame_index(self) -> FrameIndex:
        """Where in `words` frames are, for gathers; good until a frame is added."""
        if self._index is None:
            self._index = FrameIndex(self._base)
        return self._index

    def copy(self) -> "PhysicalMemory":
        """Another memory with the same contents."""
        twin = PhysicalMemory(self.maxphyaddr)
        twin._base = dict(self._base)
        twin._free = list(self._free)
        twin._used = self._used
        twin._adopt(self.words.copy())
        return twin

    def __eq__(self, other: object) -> bool:
        """Equal contents: whether a frame exists or merely reads as zeroes makes no difference."""
        if not isinstance(other, PhysicalMemory):
            return NotImplemented
        pfns = set(self.frames()) | set(other.frames())
        return all(np.array_equal(self.frame(pfn), other.frame(pfn)) for pfn in pfns)

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __getstate__(self) -> tuple[int, dict[int, int], list[int], int, NDArray[np.uint64]]:
        """A memoryview cannot be pickled; the array that it shows can."""
        return self.maxphyaddr, self._base, self._free, self._used, self.words

    def __setstate__(self, state: tuple[int, dict[int, int], list[int], int, NDArray[np.uint64]]) -> None:
        self.maxphyaddr, self._base, self._free, self._used, words = state
        self._index = None
        self._adopt(words)

    def _add_frame(self, pfn: int) -> int:
        if self._free:
            base = self._free.pop()
        else:
            base = self._used
            self._used += WORDS_PER_FRAME
            if self._used > len(self.words):
                self._adopt(np.concatenate([self.words, np.zeros_like(self.words)]))
        self._base[pfn] = base
        self._index = None
        return base

    def _check(self, address: int, size: int) -> None:
        if size not in _LOW:
            raise ValueError(f"an access of {size} bytes; 1, 2, 4 and 8 are possible")
        if address & (size - 1):
            raise ValueError(f"{address:#x} is not a multiple of {size}")
        if address < 0 or address >> self.maxphyaddr:
            raise ValueError(f"{address:#x} is not below 2**{self.maxphyaddr}, the end of physical memory")
