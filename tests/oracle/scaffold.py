"""The frames that the emulator keeps for itself, and the tables that bring the probing code into its TLB.

A case's own tables map only what the case is about, so the code that makes the access has no place in them.
It gets one for a moment: before the access, and with the case's control registers, the entry of the top-level
table that covers the code is made to point to tables kept here; a NOP is executed, whose translation the
emulator then holds in its TLB; the entry is taken back, the case's words are written, and the access is made
by the next instruction of the same page. Its fetch hits the TLB, its operand walks the case's tables cold.

The window lies where a PC has its local APIC: no case may place tables there.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Protocol

from tests.oracle.case import Paging

WINDOW = 0xFEE0_0000
WINDOW_SIZE = 0x8_0000
CODE = WINDOW
VMCB = WINDOW + 0x1000
HSAVE = WINDOW + 0x2000
STACK = WINDOW + 0x3000
GDT = WINDOW + 0x3800
TABLES = WINDOW + 0x4000

PROBES = {"read": 0x00, "write": 0x10, "fetch": 0x20}
"""Where in the code page each probe begins: a NOP, then the access through rBX."""
WRPKRU = 0x30
VMRUN = 0x40
IRET_32 = 0x50
IRET_64 = 0x60

_CODE_BYTES = {
    PROBES["read"]: "90 8a 03",  # nop; mov al, [rbx]
    PROBES["write"]: "90 88 03",  # nop; mov [rbx], al
    PROBES["fetch"]: "90 ff e3",  # nop; jmp rbx
    WRPKRU: "0f 01 ef",
    VMRUN: "0f 01 d8",
    IRET_32: "cf",
    IRET_64: "48 cf",
}

SHIFTS: dict[Paging, tuple[int, ...]] = {
    "32-bit": (22, 12),
    "PAE": (30, 21, 12),
    "4-level": (39, 30, 21, 12),
    "5-level": (48, 39, 30, 21, 12),
}
"""The lowest bit of the index into each level's table, from the top (SDM vol. 3A, figures 4-2 to 4-11)."""

_CODE_ADDRESSES: dict[Paging, tuple[int, int]] = {
    "32-bit": (0x4AAA_A000, 0xB555_5000),
    "PAE": (0x4AAA_A000, 0xB555_5000),
    "4-level": (0x2AAA_AAAA_A000, 0x5555_5555_5000),
    "5-level": (0x2AAA_AAAA_A000, 0x5555_5555_5000),
}
"""Two linear addresses for the code, so that one is not the page under test."""

P_RW_US = 7
P_RW = 3


class Memory(Protocol):
    """Physical memory that can be written; the emulator's engine is one."""

    def mem_write(self, address: int, data: bytes, /) -> None:
        """Write bytes at a physical address."""


@dataclass(frozen=True)
class CodeMapping:
    """Where the code is, and the word of the top-level table (address relative to CR3) that maps it."""

    linear: int
    root_offset: int
    root_word: bytes


class Scaffold:
    """The code, the descriptors and the warming tables, written once into an engine's memory."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._next_frame = TABLES
        for offset, code in _CODE_BYTES.items():
            memory.mem_write(CODE + offset, bytes.fromhex(code))
        self._code = {
            (paging, user, linear & ~0xFFF): self._map_code(paging, linear, user)
            for paging, addresses in _CODE_ADDRESSES.items()
            for linear in addresses
            for user in (False, True)
        }
        self._gigabytes = [self._identity(step=1 << 30, first=half << 39) for half in range(2)]
        self._two_megabytes = [self._identity(step=1 << 21, first=gigabyte << 30) for gigabyte in range(4)]
        self._window_table = self._frame()
        self._root_table = self._frame()
        for page in range(WINDOW, WINDOW + WINDOW_SIZE, 0x1000):
            self._map_4_kbytes(self._window_table, page)
        assert self._next_frame <= WINDOW + WINDOW_SIZE

    def code(self, paging: Paging, va: int, user: bool) -> CodeMapping:
        """The mapping of the code for a case whose access is to ``va``."""
        first, second = _CODE_ADDRESSES[paging]
        return self._code[paging, user, second if va >> 12 == first >> 12 else first]

    def nested_words(self, paging: Paging, ncr3: int, guest_root: int) -> dict[int, bytes]:
        """Words for the nested tables that map what the warming needs, each guest-physical address to itself.

        Everything under 4- and PAE paging; under 32-bit paging, which cannot count on large pages, the window
        and the frame of the guest's top-level table.
        """
        if paging == "4-level":
            return {ncr3 + 8 * i: _entry(8, f | P_RW_US) for i, f in enumerate(self._gigabytes)}
        if paging == "PAE":
            return {(ncr3 & ~0x1F) + 8 * i: _entry(8, f | 1) for i, f in enumerate(self._two_megabytes)}
        return self._nested_32_bit(ncr3, guest_root & ~0xFFF)

    def _nested_32_bit(self, ncr3: int, guest_root: int) -> dict[int, bytes]:
        words = {ncr3 + 4 * (WINDOW >> 22): _entry(4, self._window_table | P_RW_US)}
        table = self._window_table if guest_root >> 22 == WINDOW >> 22 else self._root_table
        self._map_4_kbytes(table, guest_root)
        return words | {ncr3 + 4 * (guest_root >> 22): _entry(4, table | P_RW_US)}

    def _map_4_kbytes(self, table: int, page: int) -> None:
        self._memory.mem_write(table + 4 * (page >> 12 & 0x3FF), _entry(4, page | P_RW_US))

    def _map_code(self, paging: Paging, linear: int, user: bool) -> CodeMapping:
        size = 4 if paging == "32-bit" else 8
        flags = P_RW_US if user else P_RW
        indexes = [linear >> shift & (4096 // size - 1) for shift in SHIFTS[paging]]
        target = CODE
        for index in reversed(indexes[1:]):
            table = self._frame()
            self._memory.mem_write(table + size * index, _entry(size, target | flags))
            target = table
        root_flags = 1 if paging == "PAE" else flags  # a PDPTE has no R/W and no U/S bit
        return CodeMapping(linear, size * indexes[0], _entry(size, target | root_flags))

    def _identity(self, step: int, first: int) -> int:
        table = self._frame()
        pages = range(first, first + 512 * step, step)
        self._memory.mem_write(table, b"".join(_entry(8, page | P_RW_US | 1 << 7) for page in pages))
        return table

    def _frame(self) -> int:
        self._next_frame += 0x1000
        return self._next_frame - 0x1000


def _entry(size: int, value: int) -> bytes:
    return struct.pack("<Q" if size == 8 else "<I", value)
