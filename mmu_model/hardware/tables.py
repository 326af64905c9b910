"""Writes paging structures, the way system software does."""

from collections.abc import Iterator

from mmu_model.hardware.formats import LEVELS
from mmu_model.hardware.registers import Mode
from mmu_model.hardware.types import PAGE_SIZE
from mmu_model.hardware.walk import Words

PRESENT_WRITABLE_USER = 0x7
"""P, R/W and U/S; in an EPT entry the same bits are R, W and X."""

_P, _PS, _ADDRESS = 1, 1 << 7, 0xF_FFFF_FFFF_F000


class PageTables:
    """The paging structures of one address space: linear, NPT or EPT, in any mode.

    Parameters
    ----------
    memory :
        Where they are written.
    mode :
        Their levels; EPT has those of 4-level or 5-level paging.
    frames :
        The addresses of the frames to make tables of, in that order; the first becomes the root.

    """

    def __init__(
        self,
        memory: Words,
        mode: Mode,
        frames: Iterator[int],
    ) -> None:
        self._memory = memory
        self._levels = LEVELS[mode]
        self._entry_size = 4 if mode is Mode.THIRTY_TWO_BIT else 8
        self._frames = frames
        self._flags = {level.number: PRESENT_WRITABLE_USER for level in self._levels}
        if mode is Mode.PAE:
            self._flags[3] = _P  # R/W and U/S are reserved in a PDPTE
        self.root = next(frames)

    def map(self, address: int, page: int, level: int = 1, flags: int = PRESENT_WRITABLE_USER) -> int:
        """Map the page at `address`, making the tables that are missing; the address of the entry."""
        where = self.entry_address(address, level)
        self._store(where, page | flags | (_PS if level > 1 else 0))
        return where

    def entry_address(self, address: int, level: int) -> int:
        """Where the entry of that level for `address` is; makes the tables that lead there."""
        table = self.root
        for step in self._levels:
            index = address >> step.low & (1 << step.high - step.low + 1) - 1
            where = table + index * self._entry_size
            if step.number == level:
                return where
            entry = self._memory.read(where, self._entry_size)
            if not entry & _P:
                entry = next(self._frames) | self._flags[step.number]
                self._store(where, entry)
            table = entry & _ADDRESS
        raise ValueError(f"this paging mode has no level {level}")

    def _store(self, where: int, entry: int) -> None:
        old = self._memory.read(where, self._entry_size)
        self._memory.compare_exchange(where, old, entry, self._entry_size)


def frames_from(start: int) -> Iterator[int]:
    """Frame addresses, one after the other, for :class:`PageTables`."""
    while True:
        yield start
        start += PAGE_SIZE
