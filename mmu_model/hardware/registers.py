"""The registers that govern paging, and which mode they select.

A set of registers that exists is one the processor would have let software load; any other combination
raises #GP here as it does there.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from mmu_model.hardware.faults import GeneralProtection

CR0_PE: Final = 1 << 0
CR0_WP: Final = 1 << 16
CR0_NW: Final = 1 << 29
CR0_CD: Final = 1 << 30
CR0_PG: Final = 1 << 31

CR4_PSE: Final = 1 << 4
CR4_PAE: Final = 1 << 5
CR4_PGE: Final = 1 << 7
CR4_LA57: Final = 1 << 12
CR4_PCIDE: Final = 1 << 17
CR4_SMEP: Final = 1 << 20
CR4_SMAP: Final = 1 << 21
CR4_PKE: Final = 1 << 22
CR4_PKS: Final = 1 << 24

EFER_LME: Final = 1 << 8
EFER_LMA: Final = 1 << 10
EFER_NXE: Final = 1 << 11

CR3_PCID: Final = 0xFFF


class Mode(Enum):
    """The paging modes (SDM vol. 3, 4.1.1)."""

    OFF = "off"
    THIRTY_TWO_BIT = "32-bit"
    PAE = "PAE"
    FOUR_LEVEL = "4-level"
    FIVE_LEVEL = "5-level"

    @property
    def is_long(self) -> bool:
        """4-level or 5-level: linear addresses have 64 bits."""
        return self in (Mode.FOUR_LEVEL, Mode.FIVE_LEVEL)


@dataclass(frozen=True, kw_only=True)
class Registers:
    """What the processor translates by.

    Bits that have nothing to do with paging may have any value. EFER.LME is implied by EFER.LMA.

    Attributes
    ----------
    cr0, cr3, cr4, efer :
        The control registers.
    pkru, pkrs :
        Rights by protection key, of user-mode and of supervisor-mode addresses: two bits a key, AD and WD.
    ac :
        EFLAGS.AC: explicit supervisor-mode data accesses are exempt from SMAP.
    maxphyaddr :
        Physical-address bits of this processor, 32 to 52.

    Raises
    ------
    GeneralProtection
        No processor holds these values together.

    """

    cr0: int = 0
    cr3: int = 0
    cr4: int = 0
    efer: int = 0
    pkru: int = 0
    pkrs: int = 0
    ac: bool = False
    maxphyaddr: int = 52

    def __post_init__(self) -> None:
        if not 32 <= self.maxphyaddr <= 52:
            raise ValueError(f"MAXPHYADDR is {self.maxphyaddr}, it must be from 32 to 52")
        for illegal, reason in self._objections():
            if illegal:
                raise GeneralProtection(reason)

    def _objections(self) -> tuple[tuple[bool, str], ...]:
        """SDM vol. 3, 2.5 (CR0, CR3, CR4), 2.2.1 (EFER), 4.1.2 (what may be enabled with what)."""
        paging, protected = self.cr0 & CR0_PG, self.cr0 & CR0_PE
        long_mode, pae = self.efer & EFER_LMA, self.cr4 & CR4_PAE
        cr3_bits = self.maxphyaddr if long_mode else 64
        return (
            (self.cr0 >> 32 != 0, "CR0 has bits above 31"),
            (self.cr3 >> cr3_bits != 0, f"CR3 has bits above {cr3_bits - 1}"),
            (self.cr4 >> 64 != 0, "CR4 has bits above 63"),
            (self.efer >> 64 != 0, "EFER has bits above 63"),
            (self.pkru >> 32 != 0, "PKRU has bits above 31"),
            (self.pkrs >> 32 != 0, "PKRS has bits above 31"),
            (bool(self.cr0 & CR0_NW and not self.cr0 & CR0_CD), "CR0.NW without CR0.CD"),
            (bool(paging and not protected), "CR0.PG without CR0.PE"),
            (bool(long_mode and not paging), "EFER.LMA without CR0.PG"),
            (bool(long_mode and not pae), "EFER.LMA without CR4.PAE"),
            (bool(paging and self.efer & EFER_LME and not long_mode), "EFER.LME and CR0.PG without EFER.LMA"),
            (bool(self.cr4 & CR4_PCIDE and not long_mode), "CR4.PCIDE without EFER.LMA"),
        )

    @property
    def mode(self) -> Mode:
        """The paging mode that these registers select."""
        if not self.cr0 & CR0_PG:
            return Mode.OFF
        if self.efer & EFER_LMA:
            return Mode.FIVE_LEVEL if self.cr4 & CR4_LA57 else Mode.FOUR_LEVEL
        return Mode.PAE if self.cr4 & CR4_PAE else Mode.THIRTY_TWO_BIT

    @property
    def pcid(self) -> int:
        """The current process-context identifier: 0 unless CR4.PCIDE (SDM vol. 3, 4.10.1)."""
        return self.cr3 & CR3_PCID if self.cr4 & CR4_PCIDE else 0

    @property
    def nxe(self) -> bool:
        """EFER.NXE: XD of an entry disables execution; while it is 0 that bit is reserved."""
        return bool(self.efer & EFER_NXE)
