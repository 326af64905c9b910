"""Runs a case on Unicorn: registers, words in physical memory, and a real instruction that makes the access.

What an emulator shows of a walk: that it succeeded and the physical address that was accessed, or the
exception or nested exit with its error code and address; and the words of memory that the walk changed.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from functools import cache

from tests.oracle.case import CR0_PE, CR0_PG, CR4_PAE, EFER_LMA, EFER_LME, EFER_NXE, Answer, Case
from tests.oracle.engine import Engine
from tests.oracle.scaffold import WINDOW, WINDOW_SIZE

MAXPHYADDR = 40
"""The only physical-address width that Unicorn knows."""
PS = 1 << 7


class UnsupportedError(Exception):
    """The case asks for something that the emulator does not have."""


def run(case: Case) -> Answer:
    """Make the access of a case on the emulator, cold, and say what came of it.

    Raises
    ------
    UnsupportedError
        The emulator cannot run the case: another MAXPHYADDR makes a difference, 5-level nested tables, a
        64-bit guest of a 32-bit host, or memory where the oracle keeps its own frames.
    """
    _check_supported(case)
    try:
        return _engine(_is_long(case), case.npt is not None).run(case)
    except BaseException:
        _engine.cache_clear()  # its memory may hold half a case
        raise


def _is_long(case: Case) -> bool:
    return case.npt.efer_lma if case.npt else bool(case.efer & EFER_LMA)


def _check_supported(case: Case) -> None:
    if not _same_at_40_bits(case):
        raise UnsupportedError(
            f"{case.id}: a bit between MAXPHYADDR {case.maxphyaddr} and {MAXPHYADDR} is set"
        )
    used = [*case.memory, case.va] if case.paging == "off" else case.memory
    if any(WINDOW <= address < WINDOW + WINDOW_SIZE for address in used):
        raise UnsupportedError(f"{case.id}: memory at {WINDOW:#x} belongs to the oracle")
    if case.npt and case.npt.paging == "5-level":
        raise UnsupportedError(f"{case.id}: 5-level nested tables")
    if case.npt and case.efer & EFER_LMA and not case.npt.efer_lma:
        raise UnsupportedError(f"{case.id}: a 64-bit guest of a 32-bit host")
    if case.npt and case.paging == "off":
        raise UnsupportedError(f"{case.id}: a guest without paging")


def _same_at_40_bits(case: Case) -> bool:
    """Would a processor with 40 physical-address bits do the same with these words?

    It would if no word has one of the bits between the two widths: then each bit that is set is an address
    bit, or reserved, on both. A 4-byte entry of a 4-MByte page has its address bits 39:32 at 20:13.
    """
    low, high = sorted((min(case.maxphyaddr, 52), MAXPHYADDR))
    between = (1 << high) - (1 << low)
    between_4_bytes = (between >> 32 & 0xFF) << 13
    return not any(
        value & (between if size == 8 else between_4_bytes * bool(value & PS))
        for value, size in case.memory.values()
    )


@cache
def _engine(long: bool, nested: bool) -> Engine:
    return Engine(long, nested, _error_code_offset())


@cache
def _error_code_offset() -> int:
    """Where the saved context has the error code: the one place that holds six known ones in turn."""
    engine = Engine(long=True, nested=False, error_code_at=0)
    cr0, efer = CR0_PE | CR0_PG, EFER_LME | EFER_LMA | EFER_NXE
    probe = Case("probe", MAXPHYADDR, cr0, 0x1000, CR4_PAE, efer, 0, False, 0, "read", 0x5000, {})
    present_and_too_large = {0x1000: (0x81, 8)}
    known = {
        0x00: probe,
        0x02: replace(probe, access="write"),
        0x04: replace(probe, cpl=3),
        0x10: replace(probe, access="fetch"),
        0x09: replace(probe, memory=present_and_too_large),
        0x0F: replace(probe, cpl=3, access="write", memory=present_and_too_large),
    }
    contexts = {code: engine.fault_context(case) for code, case in known.items()}
    size = len(contexts[0])
    places = [
        offset
        for offset in range(0, size - 3, 4)
        if all(struct.unpack_from("<I", saved, offset)[0] == code for code, saved in contexts.items())
    ]
    if len(places) != 1:
        raise RuntimeError(f"the error code is at {len(places)} places of the saved context, not one")
    return places[0]
