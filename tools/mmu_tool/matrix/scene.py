"""A block as page tables: one page directory holds every PDE, and below each one its page table holds every
PTE.

The PDE with number n is entry n, the PTE with number m entry m, so that an address chooses a combination.
"""

from functools import cache
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from mmu_model.hardware.linear import LinearPaging
from mmu_model.hardware.memory import PhysicalMemory
from mmu_model.hardware.registers import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PKE,
    EFER_LMA,
    EFER_NXE,
    Mode,
    Registers,
)
from mmu_model.hardware.types import PAGE_SIZE
from mmu_tool.matrix.combinations import MAXPHYADDR, PDE_FLAGS, PDES, PTE_FLAGS, PTES, Block

Number = TypeVar("Number", int, NDArray[np.int64])

_ROOT, _PML4, _PDPT, _PD = (0x10_0000 + n * PAGE_SIZE for n in range(4))
_PTS, _PT_STRIDE = 0x40_0000, 4 * PAGE_SIZE
"""Bit 13 of the address of a page table is 0, so that in every PDE it is a flag of this matrix."""

SMALL_PAGE: Final = 0x0800_0000
LARGE_PAGE: Final = 0x0C00_0000

_TABLE: Final = 0x27
"""P, R/W, U/S and A: the levels above grant everything."""

_W, _PS, _KEY_SHIFT = 1 << 1, 1 << 7, 59


@cache
def tables(mode: Mode, read_only: bool, key: int) -> PhysicalMemory:
    """The paging structures; with 5-level paging there is one more above."""
    memory = PhysicalMemory(MAXPHYADDR)
    memory.write(_ROOT, _PML4 | _TABLE)
    memory.write(_PML4, _PDPT | _TABLE)
    memory.write(_PDPT, _PD | _TABLE & ~(_W if read_only else 0))
    for pde in range(PDES):
        bits = _entry(pde, PDE_FLAGS)
        if bits & _PS:
            memory.write(_PD + pde * 8, LARGE_PAGE | bits | key << _KEY_SHIFT)
            continue
        table = _PTS + pde * _PT_STRIDE
        memory.write(_PD + pde * 8, table | bits)
        for pte in range(PTES):
            memory.write(table + pte * 8, SMALL_PAGE | _entry(pte, PTE_FLAGS) | key << _KEY_SHIFT)
    return memory


def paging(mode: Mode, block: Block) -> LinearPaging:
    """The processor as a block has it. Keys other than 0 and 1 grant nothing."""
    la57 = CR4_LA57 if mode is Mode.FIVE_LEVEL else 0
    return LinearPaging(
        Registers(
            cr0=CR0_PE | CR0_PG | (CR0_WP if block.wp else 0),
            cr3=_ROOT if mode is Mode.FIVE_LEVEL else _PML4,
            cr4=CR4_PAE | la57 | (CR4_PKE if block.pke else 0),
            efer=EFER_LMA | (EFER_NXE if block.nxe else 0),
            pkru=0xFFFF_FFF0 | block.key_ad << 2 | block.key_wd << 3,
            maxphyaddr=MAXPHYADDR,
        )
    )


def addresses(numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The linear addresses of combinations, PDE number * PTES + PTE number."""
    return (numbers // PTES << 21 | numbers % PTES << 12).astype(np.uint64)


def linear_address(pde: int, pte: int) -> int:
    """The linear address of one combination."""
    return pde << 21 | pte << 12


def pde_address(pde: Number) -> Number:
    """Where a PDE is."""
    return _PD + pde * 8


def pte_address(pde: Number, pte: Number) -> Number:
    """Where a PTE is."""
    return _PTS + pde * _PT_STRIDE + pte * 8


def _entry(number: int, flags: dict[str, int]) -> int:
    return sum(1 << bit for place, bit in enumerate(flags.values()) if number >> place & 1)
