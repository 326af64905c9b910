"""The page walk of linear addresses, for many addresses at once, in NumPy.

The same steps as :func:`~mmu_model.hardware.walk.walk`, taken by all addresses together, level by level.
Results, error codes and flags are those of walking the addresses one after the other: no walk depends on a
flag that another one sets.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mmu_model.hardware.access import Access
from mmu_model.hardware.faults import PageFault
from mmu_model.hardware.linear import LinearPaging
from mmu_model.hardware.memory import PhysicalMemory
from mmu_model.hardware.paging import PSE36_SHIFT, Cause, Step
from mmu_model.hardware.registers import Mode
from mmu_model.hardware.types import PAGE_SHIFT

NO_FAULT: Final = -1
GENERAL_PROTECTION: Final = -2

_CHUNK: Final = 1 << 14
"""Addresses that take the steps together: few enough for the caches of the machine that runs this."""

# glibc gives every block of this size back to the kernel when it is freed, and takes it anew page by page,
# until a larger block has been freed once: without this line a batch takes twice as long.
np.empty(1 << 23, np.uint8)

Words = NDArray[np.int64]
"""64-bit words; signed, because NumPy takes signed indices without converting them."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Walks:
    """What became of each address.

    Attributes
    ----------
    address :
        The physical address; 0 where there is none.
    fault :
        NO_FAULT, or the error code of the page fault, or GENERAL_PROTECTION for an address that is not
        canonical.

    """

    address: NDArray[np.uint64]
    fault: NDArray[np.int16]


@dataclass(frozen=True)
class _Lanes:
    """Walks that stand at the same level: whose they are, and as in a single walk the table and the
    rights."""

    number: Words
    address: Words
    table: Words
    rights: Words

    def only(self, mask: Mask) -> "_Lanes":
        return _Lanes(self.number[mask], self.address[mask], self.table[mask], self.rights[mask])


def walk_batch(
    memory: PhysicalMemory, paging: LinearPaging, access: Access, addresses: NDArray[np.uint64]
) -> Walks:
    """Translate many addresses, and set the accessed and dirty flags that this sets.

    Parameters
    ----------
    memory, paging, access :
        As for a single walk; with PAE paging the PDPTE registers must have been loaded.
    addresses :
        The linear addresses.

    Raises
    ------
    ValueError
        An address with more than 32 bits outside long mode; PAE paging without PDPTE registers.

    """
    if paging.mode is Mode.PAE and paging.pdptes is None:
        raise ValueError("a batch of walks needs the PDPTE registers")
    if not paging.mode.is_long and (addresses >> np.uint64(32)).any():
        raise ValueError("an address has more than the 32 bits of a linear address outside long mode")
    walks = Walks(np.zeros(len(addresses), np.uint64), np.full(len(addresses), NO_FAULT, np.int16))
    batch = _Batch(memory, paging, access)
    for start in range(0, len(addresses), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        batch.run(addresses[chunk].view(np.int64), Walks(walks.address[chunk], walks.fault[chunk]))
    return walks


class _Batch:
    """What all chunks share: the memory as arrays, and the rules as tables."""

    def __init__(self, memory: PhysicalMemory, paging: LinearPaging, access: Access) -> None:
        self._paging = paging
        self._access = access
        self._frames = memory.frame_index()
        self._words = memory.words.view(np.int64)
        self._halves = memory.words.view(np.uint32)
        self._errors = {cause: _error_code(paging, access, cause) for cause in Cause}
        self._denials = _denials(paging, access)

    def run(self, addresses: Words, walks: Walks) -> None:
        """Walk one chunk."""
        self._walks = walks
        if not self._paging.steps:
            walks.address[:] = addresses
            return
        lanes = self._begin(addresses)
        for step in self._paging.steps:
            lanes = self._take(step, lanes)

    def _begin(self, addresses: Words) -> _Lanes:
        numbers = np.arange(len(addresses), dtype=np.int64)
        roots = np.array([-1 if root is None else root for root in self._paging.roots], np.int64)
        # No shift by 64: all addresses find the single root anyway.
        tables = roots.take(addresses >> min(self._paging.root_shift, 63), mode="clip")
        lanes = _Lanes(numbers, addresses, tables, np.full_like(numbers, -1))
        if self._paging.mode.is_long:
            top = addresses >> self._paging.top_shift
            lanes = self._end(lanes, (top != 0) & (top != -1), GENERAL_PROTECTION)
        return self._end(lanes, lanes.table < 0, self._errors[Cause.NOT_PRESENT])

    def _end(self, lanes: _Lanes, ended: Mask, fault: int) -> _Lanes:
        """Some walks end in a fault; the others go on."""
        if not ended.any():
            return lanes
        self._walks.fault[lanes.number[ended]] = fault
        return lanes.only(~ended)

    def _take(self, step: Step, lanes: _Lanes) -> _Lanes:
        """One level: those that map a page here arrive, the rest goes down."""
        where = self._locate(step, lanes)
        entries = self._read(step, where)
        if step.page_if == step.present:
            self._arrive(step, lanes, where, entries)
            return lanes.only(np.zeros(len(where), np.bool_))
        down = entries & _signed(step.table.reserved | step.present | step.page_if) == step.present
        if not down.all():
            self._stay(step, lanes.only(~down), where[~down], entries[~down])
            lanes, where, entries = lanes.only(down), where[down], entries[down]
        self._set(step, where, entries, step.accessed)
        rights = self._narrow(lanes, entries)
        return _Lanes(lanes.number, lanes.address, entries & step.table.address, rights)

    def _stay(self, step: Step, lanes: _Lanes, where: Words, entries: Words) -> None:
        """Entries that lead to no table: they are absent, map a page, or are malformed."""
        absent = entries & step.present == 0
        pages = ~absent & (entries & step.page_if != 0)
        self._end(lanes, absent, self._errors[Cause.NOT_PRESENT])
        self._end(lanes, ~absent & ~pages, self._errors[Cause.MALFORMED])
        if pages.any():
            self._arrive(step, lanes.only(pages), where[pages], entries[pages])

    def _arrive(self, step: Step, lanes: _Lanes, where: Words, entries: Words) -> None:
        """Entries that map a page, if they are present and well formed."""
        good = entries & _signed(step.page.reserved | step.present) == step.present
        if not good.all():
            absent = entries & step.present == 0
            self._end(lanes, absent, self._errors[Cause.NOT_PRESENT])
            self._end(lanes, ~absent & ~good, self._errors[Cause.MALFORMED])
            lanes, where, entries = lanes.only(good), where[good], entries[good]

        rights = self._narrow(lanes, entries)
        denials = self._denials.take(entries >> 56 & 0x78 | rights >> 1 & 3 | rights >> 61 & 4)
        permitted = denials == NO_FAULT
        if not permitted.all():
            self._walks.fault[lanes.number] = denials
            lanes, where, entries = lanes.only(permitted), where[permitted], entries[permitted]

        self._set(step, where, entries, step.accessed | step.dirty * self._access.writes)
        offset = lanes.address & (1 << step.shift) - 1
        page = entries & step.page.address
        if step.page.high:
            page |= (entries & step.page.high) << PSE36_SHIFT
        self._walks.address[lanes.number] = page | offset

    def _locate(self, step: Step, lanes: _Lanes) -> Words:
        """The index of each entry in the memory's words, or in its halves for entries of 4 bytes."""
        index = lanes.address >> step.shift & step.index_mask
        base = self._frames.base(lanes.table >> PAGE_SHIFT)
        if step.entry_size == 4:
            return base * 2 + index
        return base + index

    def _read(self, step: Step, where: Words) -> Words:
        if step.entry_size == 4:
            return self._halves[where].astype(np.int64)
        return self._words[where]

    def _set(self, step: Step, where: Words, entries: Words, flags: int) -> None:
        """Set flags in the entries that lack them."""
        lacking = entries & flags != flags
        if lacking.any():
            array: NDArray[Any] = self._halves if step.entry_size == 4 else self._words
            array[where[lacking]] = entries[lacking] | flags

    def _narrow(self, lanes: _Lanes, entries: Words) -> Words:
        return lanes.rights & (entries ^ _signed(self._paging.inverted))


def _error_code(paging: LinearPaging, access: Access, cause: Cause, rights: int = 0, entry: int = 0) -> int:
    fault = paging.fault(cause, access, 0, rights, entry)
    assert isinstance(fault, PageFault)
    return fault.error_code


@lru_cache(maxsize=256)
def _denials(paging: LinearPaging, access: Access) -> NDArray[np.int16]:
    """NO_FAULT or the error code for each protection key (index bits 6:3) and X, U and W (bits 2:0)."""
    outcomes = np.full(128, NO_FAULT, np.int16)
    for index in range(128):
        entry, rights = index >> 3 << 59, (index & 3) << 1 | (index & 4) << 61
        if not paging.permits(access, rights, entry):
            outcomes[index] = _error_code(paging, access, Cause.DENIED, rights, entry)
    return outcomes


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
