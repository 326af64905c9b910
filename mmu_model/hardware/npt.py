"""Nested page tables (APM vol. 2, 15.25): the second dimension is the host's own paging, as a user."""

from typing import Final

from mmu_model.hardware.access import Access, Kind, access
from mmu_model.hardware.faults import Fault, NestedPageFault, PageFault
from mmu_model.hardware.linear import LinearPaging
from mmu_model.hardware.nested import NO_EP4TA, TABLE_WRITE, GuestPhysicalAccess, Purpose, SecondDimension
from mmu_model.hardware.paging import Cause, Translation
from mmu_model.hardware.registers import (
    CR0_PE,
    CR0_PG,
    CR4_LA57,
    CR4_PAE,
    CR4_PSE,
    EFER_LMA,
    EFER_NXE,
    Mode,
    Registers,
)

EXIT_INFO_PAGE: Final = 1 << 32
EXIT_INFO_TABLE: Final = 1 << 33

_USER: Final = {kind: access(kind, user=True) for kind in Kind}
_WIDTH: Final = {Mode.THIRTY_TWO_BIT: 32, Mode.PAE: 32, Mode.FOUR_LEVEL: 48, Mode.FIVE_LEVEL: 57}


class NestedPaging(SecondDimension):
    """Nested paging as the host's registers and nCR3 set it up.

    Every access is judged as a user-mode access (15.25.5), so that CR0.WP, SMEP, SMAP and PKRU of the host
    have no say; protection keys, global pages and PCIDs do not exist here. A read of a guest's table entry
    counts as a write (15.25.6), because the processor may have to set a flag in it.

    Parameters
    ----------
    ncr3 :
        The root of the nested page tables.
    cr4, efer :
        Of the host, when it executed VMRUN: CR4.PSE, PAE, LA57, EFER.LMA, NXE select the paging mode.
    maxphyaddr :
        Physical-address bits.

    Raises
    ------
    GeneralProtection
        The host cannot have had these values.

    """

    pdpte_registers = False  # APM vol. 2, 15.25.10
    table_access = TABLE_WRITE

    def __init__(self, ncr3: int, *, cr4: int, efer: int, maxphyaddr: int = 52) -> None:
        registers = Registers(
            cr0=CR0_PE | CR0_PG,
            cr3=ncr3,
            cr4=cr4 & (CR4_PSE | CR4_PAE | CR4_LA57),
            efer=efer & (EFER_LMA | EFER_NXE),
            maxphyaddr=maxphyaddr,
        )
        self._linear = linear = LinearPaging(registers)
        self.steps, self.inverted = linear.steps, linear.inverted
        self.roots, self.root_shift = linear.roots, linear.root_shift
        self.ep4ta = NO_EP4TA
        self.top_shift, self.tops = _WIDTH[registers.mode], (0,)

    def permits(self, access: GuestPhysicalAccess, rights: int, entry: int) -> bool:
        """As for a user-mode access of the host."""
        return self._linear.permits(_as_user(access), rights, entry)

    def fault(
        self, cause: Cause, access: GuestPhysicalAccess, address: int, rights: int, entry: int
    ) -> Fault:
        """EXITINFO1 is the error code of the page fault that the host would take, and says who asked."""
        fault = self._linear.fault(cause, _as_user(access), address, rights, entry)
        assert isinstance(fault, PageFault)
        who = EXIT_INFO_PAGE if access.purpose is Purpose.PAGE else EXIT_INFO_TABLE
        return NestedPageFault(fault.error_code | who, address)

    def impossible(self, access: GuestPhysicalAccess, address: int) -> Fault:
        """An address wider than the host's paging mode translates is nowhere mapped."""
        return self.fault(Cause.NOT_PRESENT, access, address, 0, 0)

    def check_update(self, address: int, last: Translation) -> None:
        """The entry was read as if to be written; nothing is left to check."""


def _as_user(access: GuestPhysicalAccess) -> Access:
    if access.writes:
        return _USER[Kind.WRITE]
    return _USER[Kind.FETCH if access.fetches else Kind.READ]
