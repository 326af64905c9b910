"""The booted kernel's memory, by physical or by kernel-virtual address."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping

FRAME = 0x000F_FFFF_FFFF_F000
LARGE_PAGE = 1 << 7
PAGE = 4096
KERNEL_TEXT = 0xFFFFFFFF80000000  # __START_KERNEL_map: without KASLR, where physical 0 is mapped


class BadAddressError(LookupError):
    """An address outside the machine's memory, or not mapped: what led there was no pointer."""


class Memory:
    """Reads the file behind the machine's RAM.

    ``symbols`` are addresses out of /proc/kallsyms; the kernel must have been booted with ``nokaslr``.
    File offset is physical address below the PCI hole only, so the machine must have less than 3 GiB.
    """

    def __init__(self, file: int, symbols: Mapping[str, int], *, five_level: bool) -> None:
        self.ram = mmap.mmap(file, 0, prot=mmap.PROT_READ)
        self.shifts = ((48,) if five_level else ()) + (39, 30, 21, 12)
        self.page_table = symbols["init_top_pgt"] - KERNEL_TEXT
        self.direct_map = 0
        self.direct_map = self.u64(symbols["page_offset_base"])
        self.vmemmap = self.u64(symbols["vmemmap_base"])

    def close(self) -> None:
        """Lets the memory go."""
        self.ram.close()

    def physical(self, address: int, size: int) -> bytes:
        """``size`` bytes at a physical address."""
        if not 0 <= address <= len(self.ram) - size:
            raise BadAddressError(f"physical {address:#x} outside of RAM")
        return self.ram[address : address + size]

    def translate(self, va: int, table: int | None = None) -> int:
        """The physical address of ``va``, in the kernel's or in another ``table``."""
        if table is None:
            if self.direct_map and 0 <= va - self.direct_map < len(self.ram):
                return va - self.direct_map
            table = self.page_table
        for shift in self.shifts:
            (entry,) = struct.unpack("<Q", self.physical(table + 8 * (va >> shift & 511), 8))
            if not entry & 1:
                raise BadAddressError(f"virtual {va:#x} not mapped")
            table = entry & FRAME
            if shift in (30, 21) and entry & LARGE_PAGE:
                low = (1 << shift) - 1
                return table & ~low | va & low
        return table | va & (PAGE - 1)

    def read(self, va: int, size: int) -> bytes:
        """``size`` bytes at a kernel-virtual address."""
        parts = []
        while size:
            n = min(size, PAGE - va % PAGE)
            parts.append(self.physical(self.translate(va), n))
            va, size = va + n, size - n
        return b"".join(parts)

    def unsigned(self, va: int, size: int) -> int:
        """The number of ``size`` bytes there."""
        return int.from_bytes(self.read(va, size), "little")

    def u64(self, va: int) -> int:
        """The 64-bit number there."""
        return self.unsigned(va, 8)

    def words(self, va: int, count: int) -> tuple[int, ...]:
        """``count`` 64-bit numbers."""
        return struct.unpack(f"<{count}Q", self.read(va, 8 * count))

    def list_nodes(self, head: int) -> Iterator[int]:
        """The nodes of a list_head; one that is all zero was never initialised and is empty."""
        node = self.u64(head)
        while node and node != head:
            yield node
            node = self.u64(node)
