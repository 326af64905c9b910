"""Tables that are invented while they are walked: an entry comes into being where an address selects it.

The formats are those of SDM vol. 3A, 4.3 to 4.5 (figures 4-4, 4-7 and 4-11); nested tables have the same (APM
vol. 2, 15.25.5).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.oracle.case import Paging
from tests.oracle.scaffold import SHIFTS

P, RW, US, PWT, PCD, A, D, PS, G = (1 << n for n in range(9))
NX = 1 << 63
_PAT_LARGE = 1 << 12
_SOFTWARE = 0x7 << 9
_ADDRESS = 0x000F_FFFF_FFFF_F000


@dataclass
class Tables:
    """The tables of one address space, as they grow."""

    rng: random.Random
    paging: Paging
    maxphyaddr: int
    address_bits: int
    """Of the pages that leaves point to; 32-bit paging reaches so far with 4-MByte pages only."""
    nxe: bool
    large_pages: bool
    memory: dict[int, tuple[int, int]]
    table_frames: list[int]
    locate: Callable[[int], int] = lambda address: address
    """Where the memory of these tables is: the nested translation for a guest's, else the address itself."""
    ps_is_spare: bool = True
    """Whether PS may be set where 32-bit paging without large pages ignores it."""
    fault_chance: float = 0.1
    """For each entry, of being not present, reserved or lacking a permission."""
    _known: dict[int, tuple[int, bool]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.size = 4 if self.paging == "32-bit" else 8
        self.depth = len(SHIFTS[self.paging])
        self.root: int = self.rng.choice(self.table_frames)
        if self.paging == "PAE":
            self.root |= self.rng.randrange(0, 0x1000, 0x20)

    def walk(self, address: int, page: Callable[[int, int], int], may_set_nx: bool = True) -> int:
        """Translate an address, inventing what is not there.

        ``page(unit, width)`` is asked for a page of 2**unit bytes below 2**width. Returns what the entries,
        were nothing wrong with them, translate the address to.
        """
        table = self.root
        for level in range(self.depth, 0, -1):
            shift = SHIFTS[self.paging][-level]
            index = address >> shift & (1024 if self.size == 4 else 512) - 1
            if self.paging == "PAE" and level == 3:
                index &= 3
            slot = self.locate(table + self.size * index)
            if slot not in self._known:
                leaf = level == 1 or (self._may_be_large(level) and self.rng.random() < 0.35)
                target = self._page(page, shift) if leaf else self._next_table()
                self._invent(slot, level, target, leaf, may_set_nx)
            table, leaf = self._known[slot]
            if leaf:
                return table | address & (1 << shift) - 1
        return table | address & 0xFFF  # a frame used at two levels led astray

    def _page(self, page: Callable[[int, int], int], unit: int) -> int:
        return page(unit, 32 if self.size == 4 and unit == 12 else self.address_bits)

    def _may_be_large(self, level: int) -> bool:
        if self.paging == "32-bit":
            return self.large_pages and level == 2
        return level == 2 or (level == 3 and self.depth > 3)

    def _next_table(self) -> int:
        frame = self.root & ~0xFFF  # a table that is reached by way of itself, now and then
        if self.rng.random() >= 0.03:
            frame = self.rng.choice(self.table_frames)
        if self.paging == "PAE" and frame == self.root & ~0xFFF:
            return self._next_table()  # but no PDPTE that is a PDE as well, see departures.for_the_emulator
        return frame

    def _invent(self, slot: int, level: int, target: int, leaf: bool, may_set_nx: bool) -> None:
        self._known[slot] = target, leaf
        self.memory[slot] = self._entry(level, target, leaf, may_set_nx), self.size
        if self.rng.random() < 0.3:  # a neighbour, for a walk that errs in the index to find
            neighbour = slot & ~0xFFF | self.rng.randrange(0, 0x1000, self.size)
            if not (self.paging == "PAE" and level == 3):
                self.memory.setdefault(neighbour, (self._garbage(), self.size))

    def invent_other_pdptes(self) -> None:
        """The PDPTEs that the access does not need, but a load of CR3 does."""
        for index in range(4):
            slot = self.locate(self.root + 8 * index)
            if slot not in self._known and self.rng.random() < 0.5:
                self.memory[slot] = self._entry(3, self._next_table(), False, True), 8

    def _entry(self, level: int, target: int, leaf: bool, may_set_nx: bool) -> int:
        if self.paging == "PAE" and level == 3:
            entry = target | P | self._some(PWT | PCD | _SOFTWARE)
        else:
            entry = self._address(target, leaf and level > 1) | P | self._ignored(level, leaf)
            entry |= (PS if leaf and level > 1 else 0) | self._permissions(may_set_nx)
        if self.rng.random() < self.fault_chance:
            entry = self._spoil(entry, level, leaf)
        return entry

    def _spoil(self, entry: int, level: int, leaf: bool) -> int:
        reserved = self.reserved(level, leaf)
        if reserved and self.rng.random() < 0.6:
            return entry | self.rng.choice(reserved)
        return self._garbage() & ~P

    def _permissions(self, may_set_nx: bool) -> int:
        lacking = min(0.5, 1.2 * self.fault_chance)
        flags = RW * (self.rng.random() >= lacking) | US * (self.rng.random() >= lacking)
        if self.size == 8 and self.nxe and may_set_nx:
            flags |= NX * (self.rng.random() < lacking)
        return flags

    def _ignored(self, level: int, leaf: bool) -> int:
        """Bits that a walk does not look at, and A and D."""
        mask = PWT | PCD | A | D | _SOFTWARE | G
        if level == 1:
            mask |= PS * self._may_hold_any_frame()  # PAT
        elif leaf:
            mask |= _PAT_LARGE
        elif self.paging == "32-bit" and not self.large_pages and self.ps_is_spare:
            mask |= PS * self._may_hold_any_frame()
        if self.depth > 3:
            mask |= 0x7FF << 52
        return self._some(mask)

    def _some(self, mask: int) -> int:
        return mask & self.rng.getrandbits(64)

    def _address(self, target: int, large: bool) -> int:
        if self.size == 8 or not large:
            return target
        return target & 0xFFC0_0000 | (target >> 32) << 13  # PSE-36

    def _garbage(self) -> int:
        """An entry of random bits but for those that mean something else to the emulator's MAXPHYADDR, 40."""
        value = self.rng.getrandbits(8 * self.size)
        low, high = sorted((self.maxphyaddr, 40))
        if self.size == 8:
            return value & ~((1 << high) - (1 << low))
        return value if self.ps_is_spare and self._may_hold_any_frame() else value & ~PS

    def _may_hold_any_frame(self) -> bool:
        """Whether a 4-byte entry with bit 7 set means the same to the emulator whatever its address bits."""
        return self.size == 8 or self.maxphyaddr >= 40

    def reserved(self, level: int, leaf: bool) -> list[int]:
        """The bits of a present entry that the manual reserves, one by one."""
        if self.size == 4:
            return [1 << 21] if leaf and level == 2 else []
        bits = [1 << n for n in range(max(self.maxphyaddr, 40), 52)]
        if self.paging == "PAE":
            bits += [1 << n for n in range(52, 63)]
            if level == 3:
                return [*bits, NX, *(1 << n for n in (1, 2, 5, 6, 7, 8))]
        if not self.nxe:
            bits.append(NX)
        if level > 3:
            bits.append(PS)
        if leaf and level > 1:
            bits += [1 << n for n in range(13, SHIFTS[self.paging][-level])]
        return bits
