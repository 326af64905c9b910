"""Extended page tables (SDM vol. 3, 29.3): the second dimension on Intel processors."""

from functools import cache
from typing import Final

from mmu_model.hardware.faults import EptMisconfiguration, EptViolation, Fault
from mmu_model.hardware.formats import EPT_LEVELS, mask
from mmu_model.hardware.nested import (
    TABLE_READ,
    TABLE_UPDATE,
    TABLE_WRITE,
    GuestPhysicalAccess,
    Purpose,
    SecondDimension,
)
from mmu_model.hardware.paging import Cause, Shape, Step, Translation
from mmu_model.hardware.pml import PageModificationLog

EPT_READ: Final = 1 << 0
EPT_WRITE: Final = 1 << 1
EPT_EXECUTE: Final = 1 << 2
_RWX: Final = EPT_READ | EPT_WRITE | EPT_EXECUTE
_PAGE: Final = 1 << 7
_ACCESSED: Final = 1 << 8
EPT_DIRTY: Final = 1 << 9

EPTP_WALK_LENGTH_4: Final = 3 << 3
EPTP_WALK_LENGTH_5: Final = 4 << 3
EPTP_ACCESSED_DIRTY: Final = 1 << 6
EPTP_ROOT: Final = (1 << 52) - (1 << 12)
EPTP_WRITE_BACK: Final = 6
"""The memory type of the tables themselves; uncacheable, 0, is the other that is allowed."""

# Exit qualification of an EPT violation (SDM vol. 3, table 28-7). Bits 2:0 say what the access was and 5:3
# what the entries together permit, both in the order of the bits of an entry.
QUALIFICATION_PERMITTED_SHIFT: Final = 3
QUALIFICATION_LINEAR_ADDRESS: Final = 1 << 7
QUALIFICATION_PAGE: Final = 1 << 8

_RESERVED_TYPES: Final = (2, 3, 7)
_WIDTH: Final = {4: 48, 5: 57}


class ExtendedPaging(SecondDimension):
    """EPT as an EPTP sets it up.

    Parameters
    ----------
    eptp :
        The root of the tables, its memory type, the walk length and whether to keep accessed and dirty flags.
    exec_only :
        Whether the processor supports pages that can be executed and not read (IA32_VMX_EPT_VPID_CAP bit 0).
    maxphyaddr :
        Physical-address bits.
    log :
        Page-modification logging is enabled, and this is the log.

    Raises
    ------
    ValueError
        VM entry fails with this EPTP, or with a log and without dirty flags (SDM vol. 3, 27.2.1.1).

    """

    pdpte_registers = True
    inverted = 0
    root_shift = 64
    tops = (0,)

    def __init__(
        self,
        eptp: int,
        *,
        exec_only: bool = False,
        maxphyaddr: int = 52,
        log: PageModificationLog | None = None,
    ) -> None:
        _check_eptp(eptp, maxphyaddr)
        self.flags_kept = bool(eptp & EPTP_ACCESSED_DIRTY)
        if log is not None and not self.flags_kept:
            raise ValueError(f"EPTP {eptp:#x}: page-modification logging needs dirty flags (bit 6)")
        self.log = log
        self.table_access = TABLE_UPDATE if self.flags_kept else TABLE_READ
        walk_length = (eptp >> 3 & 7) + 1
        self.steps = _steps(walk_length, self.flags_kept, exec_only, maxphyaddr)
        self.ep4ta = eptp & EPTP_ROOT
        self.roots = (self.ep4ta,)
        self.top_shift = _WIDTH[walk_length]

    def permits(self, access: GuestPhysicalAccess, rights: int, entry: int) -> bool:
        """SDM vol. 3, 29.3.3.2: each kind of access needs its bit in all entries."""
        needed = _requested(access)
        return rights & needed == needed

    def fault(
        self, cause: Cause, access: GuestPhysicalAccess, address: int, rights: int, entry: int
    ) -> Fault:
        """A misconfiguration for a malformed entry, a violation for one that is missing or forbids."""
        if cause is Cause.MALFORMED:
            return EptMisconfiguration(address)
        qualification = _requested(access) | (rights & _RWX) << QUALIFICATION_PERMITTED_SHIFT
        if access.purpose is not Purpose.PDPTE:
            qualification |= QUALIFICATION_LINEAR_ADDRESS
        if access.purpose is Purpose.PAGE:
            qualification |= QUALIFICATION_PAGE
        return EptViolation(qualification, address)

    def impossible(self, access: GuestPhysicalAccess, address: int) -> Fault:
        """An address wider than the walk length translates is nowhere mapped."""
        return self.fault(Cause.NOT_PRESENT, access, address, 0, 0)

    def check_update(self, address: int, last: Translation) -> None:
        """Setting a flag in a guest's entry is a data write (29.3.3.2).

        With accessed and dirty flags for EPT, reading the entry counted as that already.
        """
        if not self.permits(TABLE_WRITE, last.rights, last.entry):
            raise self.fault(Cause.DENIED, TABLE_WRITE, address, last.rights, last.entry)


def _check_eptp(eptp: int, maxphyaddr: int) -> None:
    for illegal, reason in (
        (eptp & 7 not in (0, EPTP_WRITE_BACK), "memory type (bits 2:0) is neither 0 nor 6"),
        (
            eptp & 0x38 not in (EPTP_WALK_LENGTH_4, EPTP_WALK_LENGTH_5),
            "walk length (bits 5:3) is neither 3 nor 4",
        ),
        (eptp & 0xF80, "bits 11:7 must be 0"),
        (eptp >> maxphyaddr, f"has bits above {maxphyaddr - 1}"),
    ):
        if illegal:
            raise ValueError(f"EPTP {eptp:#x}: {reason}")


def _requested(access: GuestPhysicalAccess) -> int:
    return EPT_READ * access.reads | EPT_WRITE * access.writes | EPT_EXECUTE * access.fetches


@cache
def _steps(walk_length: int, flags_kept: bool, exec_only: bool, maxphyaddr: int) -> tuple[Step, ...]:
    tables, pages = _illegal(exec_only, is_page=False), _illegal(exec_only, is_page=True)
    return tuple(
        Step(
            level=level.number,
            shift=level.low,
            index_mask=511,
            entry_size=8,
            present=_RWX,
            page_if=_RWX if level.table is None else _PAGE if level.page else 0,
            table=_shape(level.table, tables, maxphyaddr),
            page=_shape(level.page, pages, maxphyaddr),
            accessed=_ACCESSED if flags_kept else 0,
            dirty=EPT_DIRTY if flags_kept else 0,
        )
        for level in EPT_LEVELS
        if level.number <= walk_length
    )


def _shape(name: str | None, illegal: int, maxphyaddr: int) -> Shape:
    if name is None:
        return Shape(reserved=0, illegal=0, address=0)
    return Shape(mask(name, "reserved", maxphyaddr), illegal, mask(name, "address", maxphyaddr))


def _illegal(exec_only: bool, *, is_page: bool) -> int:
    """The values of bits 5:0 that are a misconfiguration (SDM vol. 3, 29.3.3.1), as :class:`Shape` wants
    them."""

    def is_illegal(low_bits: int) -> bool:
        read, write, execute = low_bits & EPT_READ, low_bits & EPT_WRITE, low_bits & EPT_EXECUTE
        reserved_type = is_page and low_bits >> 3 in _RESERVED_TYPES
        return bool(not read and (write or (execute and not exec_only))) or reserved_type

    return sum(is_illegal(n) << n for n in range(64))
