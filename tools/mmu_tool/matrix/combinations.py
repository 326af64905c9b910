"""Which combinations there are.

A block fixes the CPU controls, the rights of the protection key, the upper level and the key of the page.
Within a block the flags of the page-directory entry (PDE) and of the page-table entry (PTE) vary, and the
access.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mmu_model.hardware.access import Access, Kind, access

PTE_FLAGS: Final = {"W": 1, "U": 2, "A": 5, "D": 6, "XD": 63, "P": 0, "51": 51}
PDE_FLAGS: Final = {"W": 1, "U": 2, "A": 5, "D": 6, "XD": 63, "P": 0, "51": 51, "PS": 7, "13": 13}
"""The flags that vary, and their bits; bits 51 and 13 (of a 2-MByte page) are reserved. A flag's place in
this order is its bit in the number of the entry."""

PTES: Final = 1 << len(PTE_FLAGS)
PDES: Final = 1 << len(PDE_FLAGS)

MAXPHYADDR: Final = 40


@dataclass(frozen=True)
class Block:
    """What is the same for all combinations of a block.

    Attributes
    ----------
    nxe, wp, pke :
        EFER.NXE, CR0.WP, CR4.PKE.
    key_ad, key_wd :
        Access and write disable of protection key 1, in PKRU. Without `pke` they are not varied.
    read_only :
        R/W is 0 in the PDPTE.
    key :
        The protection key of the page, 0 or 1.

    """

    nxe: bool
    wp: bool
    pke: bool
    key_ad: bool
    key_wd: bool
    read_only: bool
    key: int


_BOTH: Final = (False, True)
_KEY_RIGHTS: Final = ((False, False, False), *((True, ad, wd) for ad in _BOTH for wd in _BOTH))

BLOCKS: Final = tuple(
    Block(nxe, wp, pke, ad, wd, read_only, key)
    for nxe, wp, (pke, ad, wd), read_only, key in product(_BOTH, _BOTH, _KEY_RIGHTS, _BOTH, (0, 1))
)

ACCESSES: Final = tuple(access(kind, user=user) for user in _BOTH for kind in Kind)
FIRST: Final = access(Kind.READ)
"""The access that comes first where a combination makes two."""

SEQUENCES: Final[tuple[Sequence[Access], ...]] = tuple(
    sequence for how in ACCESSES for sequence in ((how,), (FIRST, how))
)
"""What a combination does: one access, or a supervisor-mode read and then the access."""


def flag(numbers: NDArray[np.int64], flags: dict[str, int], name: str) -> NDArray[np.bool_]:
    """Whether entries with these numbers have a flag."""
    return (numbers >> list(flags).index(name) & 1).astype(bool)


def legal(block: Block) -> NDArray[np.int64]:
    """The entries of a block's combinations: PDE number * PTES + PTE number.

    Bit 13 is varied only in a PDE that maps a page, and one reserved bit at the most is 1 (XD is one of them
    while EFER.NXE is 0): reserved bits end a walk, whatever else there is.
    """
    numbers = np.arange(PDES * PTES)
    pde, pte = numbers // PTES, numbers % PTES
    reserved = [flag(pde, PDE_FLAGS, "51"), flag(pde, PDE_FLAGS, "13"), flag(pte, PTE_FLAGS, "51")]
    if not block.nxe:
        reserved += [flag(pde, PDE_FLAGS, "XD"), flag(pte, PTE_FLAGS, "XD")]
    one_at_most = sum(bits.astype(int) for bits in reserved) <= 1
    return numbers[one_at_most & (flag(pde, PDE_FLAGS, "PS") | ~flag(pde, PDE_FLAGS, "13"))]


def combinations(blocks: Sequence[Block]) -> int:
    """How many combinations blocks have."""
    return sum(len(legal(block)) for block in blocks) * len(SEQUENCES)
