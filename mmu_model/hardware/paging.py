"""What a walk needs to know of one kind of paging, worked out once and not at each step.

:func:`~mmu_model.hardware.walk.walk` is one routine for linear addresses, NPT and EPT. What differs stands
here as data (the levels, the masks of each entry format, where to start) and in two questions that a subclass
answers: is this access permitted, and what fault reports this cause.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, NamedTuple, TypeVar

from mmu_model.hardware.faults import Fault

WRITABLE: Final = 1 << 1
USER: Final = 1 << 2
EXECUTABLE: Final = 1 << 63
GLOBAL: Final = 1 << 8
ALL_RIGHTS: Final = (1 << 64) - 1

PSE36_SHIFT: Final = 19
"""Bit 13 of a PDE that maps a 4-MByte page is bit 32 of the address."""


A = TypeVar("A")


class Cause(Enum):
    """Why a walk did not end in a translation."""

    NOT_PRESENT = "not present"
    MALFORMED = "malformed"
    DENIED = "denied"


@dataclass(frozen=True, slots=True)
class Shape:
    """One entry format as masks.

    Attributes
    ----------
    reserved :
        Bits that must be 0.
    illegal :
        Bit n is 1 if a value of n in bits 5:0 of the entry is not allowed; only EPT has such values.
    address :
        Bits of the address of the next table or of the page.
    high :
        Bits of the address that stand 19 places too low (PSE-36).

    """

    reserved: int
    illegal: int
    address: int
    high: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One level of a walk.

    Attributes
    ----------
    level :
        1 for the level that maps pages of 4 KiB, and so on upwards.
    shift, index_mask :
        Where the index of the entry stands in the address that is translated.
    entry_size :
        4 or 8 bytes.
    present :
        The entry is present if one of these bits is 1.
    page_if :
        The entry maps a page if one of these bits is 1: bit 7 (PS), or a bit that is 1 in every entry, or
        none.
    table, page :
        The formats of an entry that references a table and of one that maps a page.
    accessed, dirty :
        The flags; 0 where there are none.
    ungoverned :
        Rights that this level says nothing about.

    """

    level: int
    shift: int
    index_mask: int
    entry_size: int
    present: int
    page_if: int
    table: Shape
    page: Shape
    accessed: int
    dirty: int
    ungoverned: int = 0


class Translation(NamedTuple):
    """Where an address leads, and what may be done there.

    Attributes
    ----------
    address :
        The physical address: guest-physical where a guest's own tables were walked.
    level :
        The level of the entry that maps the page; 0 if paging is off.
    shift :
        The page has 2**shift bytes.
    rights :
        Linear paging and NPT: WRITABLE, USER, EXECUTABLE, as all entries together grant them. EPT: bits R,
        W, X.
        Other bits mean nothing.
    entry :
        The entry that maps the page, accessed and dirty flags included.

    """

    address: int
    level: int
    shift: int
    rights: int
    entry: int

    def at(self, address: int) -> int:
        """Where another address of the same page leads."""
        offset = (1 << self.shift) - 1
        return self.address & ~offset | address & offset


class Paging(ABC, Generic[A]):
    """One kind of paging, ready to walk; `A` is the kind of access that it judges.

    Attributes
    ----------
    steps :
        The levels, from the root down; none while paging is off.
    roots, root_shift :
        The table in which the walk of an address starts is `roots[address >> root_shift]`; None where there
        is no table. There is one root, except that PAE paging has four: the PDPTE registers.
    top_shift, tops :
        An address is possible only if `address >> top_shift` is one of these.
    inverted :
        The bits of an entry that take a right away when they are 1.

    """

    steps: Sequence[Step]
    roots: Sequence[int | None]
    root_shift: int
    top_shift: int
    tops: Sequence[int]
    inverted: int

    @property
    def dirty(self) -> int:
        """The dirty flag of an entry that maps a page; 0 if there is none."""
        return self.steps[-1].dirty if self.steps else 0

    @abstractmethod
    def permits(self, access: A, rights: int, entry: int) -> bool:
        """Whether an access is permitted by `rights`, gathered over all levels, and the last entry."""

    @abstractmethod
    def fault(self, cause: Cause, access: A, address: int, rights: int, entry: int) -> Fault:
        """What the processor raises; `rights` were gathered down to and with the last entry read, `entry`."""

    @abstractmethod
    def impossible(self, access: A, address: int) -> Fault:
        """What the processor raises for an address that is not one of the possible ones."""
