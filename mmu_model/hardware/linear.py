"""Paging of linear addresses, in each of the five modes, as the registers configure it."""

from functools import cache
from typing import Final

from mmu_model.hardware.access import Access
from mmu_model.hardware.faults import (
    ERROR_ID,
    ERROR_P,
    ERROR_PK,
    ERROR_RSVD,
    Fault,
    GeneralProtection,
    PageFault,
)
from mmu_model.hardware.formats import LEVELS, Level, mask
from mmu_model.hardware.paging import EXECUTABLE, USER, WRITABLE, Cause, Paging, Shape, Step
from mmu_model.hardware.permissions import key_permits, keys_in_use, permitted, reports_fetches
from mmu_model.hardware.registers import CR4_PSE, Mode, Registers

_P: Final = 1 << 0
_A: Final = 1 << 5
_D: Final = 1 << 6
_PS: Final = 1 << 7

_NOTHING: Final = Shape(reserved=0, illegal=0, address=0)


_LOW_32_BITS: Final = (32, (0,))
_CANONICAL: Final = {Mode.FOUR_LEVEL: (47, (0, 0x1FFFF)), Mode.FIVE_LEVEL: (56, (0, 0xFF))}


Pdptes = tuple[int, int, int, int]


class LinearPaging(Paging[Access]):
    """How the processor translates linear addresses under these registers.

    Parameters
    ----------
    registers :
        The control registers and the rest.
    pdptes :
        With PAE paging: the PDPTE registers (SDM vol. 3, 4.4.1), see
        :func:`~mmu_model.hardware.pdptes.load_pdptes`. Left out, each walk reads the PDPTE from memory, the
        way an AMD processor runs a guest under nested paging (APM vol. 2, 15.25.10).

    """

    inverted = EXECUTABLE

    def __init__(self, registers: Registers, pdptes: Pdptes | None = None) -> None:
        self.registers = registers
        self.pdptes = pdptes
        self.mode = mode = registers.mode
        self.top_shift, self.tops = _CANONICAL.get(mode, _LOW_32_BITS)
        levels = LEVELS[mode]
        if mode is Mode.PAE and pdptes is not None:
            levels = levels[1:]
            self.root_shift = 30
            table = mask("PAE PDPTE", "address", registers.maxphyaddr)
            self.roots: tuple[int | None, ...] = tuple(e & table if e & _P else None for e in pdptes)
        else:
            self.root_shift = 64
            self.roots = (registers.cr3 & _root_mask(mode, registers.maxphyaddr),)
        self.steps = _steps(levels, registers.maxphyaddr, registers.nxe, bool(registers.cr4 & CR4_PSE))
        self._error_mask = ~0 if reports_fetches(registers) else ~ERROR_ID
        self._outcomes: dict[int, int] = {}

    def permits(self, access: Access, rights: int, entry: int) -> bool:
        """SDM vol. 3, 4.6: the rules are in :mod:`mmu_model.hardware.permissions`, here one looks them up."""
        try:
            outcomes = self._outcomes[access.index]
        except KeyError:
            outcomes = self._outcomes[access.index] = _outcomes(self.registers, access)
        return outcomes >> (entry >> 56 & 0x78 | rights >> 1 & 3 | rights >> 61 & 4) & 1 == 1

    def fault(self, cause: Cause, access: Access, address: int, rights: int, entry: int) -> Fault:
        """SDM vol. 3, 4.7: the error code of a page fault."""
        error_code = access.error_code & self._error_mask
        if cause is not Cause.NOT_PRESENT:
            error_code |= ERROR_P
        if cause is Cause.MALFORMED:
            error_code |= ERROR_RSVD
        if cause is Cause.DENIED and not self._key_permits(access, rights, entry):
            error_code |= ERROR_PK
        return PageFault(error_code, address)

    def impossible(self, access: Access, address: int) -> Fault:
        """SDM vol. 1, 3.3.7.1: an address that is not canonical raises #GP."""
        if not self.mode.is_long:
            raise ValueError(f"{address:#x} has more than the 32 bits of a linear address outside long mode")
        return GeneralProtection(f"{address:#x} is not canonical")

    def _key_permits(self, access: Access, rights: int, entry: int) -> bool:
        return key_permits(self.registers, access, user=bool(rights & USER), key=entry >> 59 & 15)


def _root_mask(mode: Mode, maxphyaddr: int) -> int:
    """The address bits of CR3 (SDM vol. 3, tables 4-3, 4-7, 4-12)."""
    if mode is Mode.PAE:
        return 0xFFFF_FFE0
    return 0xFFFF_F000 if not mode.is_long else (1 << maxphyaddr) - (1 << 12)


@cache
def _steps(levels: tuple[Level, ...], maxphyaddr: int, nxe: bool, pse: bool) -> tuple[Step, ...]:
    return tuple(_step(level, maxphyaddr, nxe, pse) for level in levels)


def _step(level: Level, maxphyaddr: int, nxe: bool, pse: bool) -> Step:
    is_pdpte = level.table == "PAE PDPTE"
    is_32_bit = (level.table or level.page or "").startswith("32-bit")
    may_be_page = level.page is not None and (pse or not is_32_bit)
    return Step(
        level=level.number,
        shift=level.low,
        index_mask=(1 << level.high - level.low + 1) - 1,
        entry_size=4 if is_32_bit else 8,
        present=_P,
        page_if=_P if level.table is None else _PS * may_be_page,
        table=_shape(level.table, maxphyaddr, nxe),
        page=_shape(level.page, maxphyaddr, nxe),
        accessed=0 if is_pdpte else _A,
        dirty=_D,
        ungoverned=WRITABLE | USER if is_pdpte else 0,
    )


def _shape(name: str | None, maxphyaddr: int, nxe: bool) -> Shape:
    if name is None:
        return _NOTHING
    bits = {label: mask(name, label, maxphyaddr) for label in ("reserved", "XD", "address", "high")}
    reserved = bits["reserved"] if nxe else bits["reserved"] | bits["XD"]
    return Shape(reserved=reserved, illegal=0, address=bits["address"], high=bits["high"])


_WITH_U: Final = 0b1100_1100


def _outcomes(registers: Registers, access: Access) -> int:
    """128 bits: bit 8 * key + n says whether the access is permitted where the page has that protection key
    and the rights are n (1: W, 2: U, 4: X)."""
    by_rights = sum(
        permitted(registers, access, writable=bool(n & 1), user=bool(n & 2), executable=bool(n & 4)) << n
        for n in range(8)
    )
    outcomes = 0
    for key in range(16):
        by_key = 0xFF
        if keys_in_use(registers):
            by_key = _WITH_U * key_permits(registers, access, user=True, key=key)
            by_key |= (_WITH_U ^ 0xFF) * key_permits(registers, access, user=False, key=key)
        outcomes |= (by_rights & by_key) << 8 * key
    return outcomes
