"""What the 64 bits of a shadow page table entry say (arch/x86/kvm/mmu/spte.h).

The layout is the one KVM uses for nested page tables of AMD and for shadow paging; EPT's is another.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

PRESENT, WRITABLE, USER = 1 << 0, 1 << 1, 1 << 2
ACCESSED, DIRTY, LARGE, GLOBAL = 1 << 5, 1 << 6, 1 << 7, 1 << 8
HOST_WRITABLE = 1 << 9  # DEFAULT_SPTE_HOST_WRITABLE
MMU_WRITABLE = 1 << 10  # DEFAULT_SPTE_MMU_WRITABLE
MMU_PRESENT = 1 << 11  # SPTE_MMU_PRESENT_MASK
FRAME = 0x000F_FFFF_FFFF_F000  # SPTE_BASE_ADDR_MASK
AD_TYPE_SHIFT = 52  # SPTE_TDP_AD_MASK: 0 enabled, 1 disabled, 2 write-protect only
NX = 1 << 63
MMIO_VALUE = 1 << 51 | PRESENT  # kvm_mmu_reset_all_pte_masks, MAXPHYADDR below 52
MMIO_GEN_LOW, MMIO_GEN_LOW_SHIFT = 0xFF << 3, 3  # generation bits 0 to 7
MMIO_GEN_HIGH, MMIO_GEN_HIGH_SHIFT = 0x7FF << 52, 52 - 8  # generation bits 8 to 18
MMIO_ACCESS = WRITABLE | USER
FROZEN = 0x5A0  # REMOVED_SPTE of 6.1; FROZEN_SPTE of 6.12 has bit 63 as well

EMPTY_WORDS = (0, NX)  # 6.1, and SHADOW_NONPRESENT_VALUE since 6.10


class Kind(Enum):
    """What an entry is."""

    EMPTY = "empty"
    LEAF = "leaf"
    TABLE = "table"
    MMIO = "mmio"
    FROZEN = "frozen"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Spte:
    """An entry of a table of ``level`` (1 to 5), decoded on demand from its word."""

    raw: int
    level: int

    @property
    def kind(self) -> Kind:
        """Present entries are told by MMU_PRESENT alone (is_shadow_present_pte)."""
        if self.raw & MMU_PRESENT:
            return Kind.LEAF if self.level == 1 or self.raw & LARGE else Kind.TABLE
        if self.raw in EMPTY_WORDS:
            return Kind.EMPTY
        if self.raw & ~NX == FROZEN:
            return Kind.FROZEN
        if self.raw & MMIO_VALUE == MMIO_VALUE:
            return Kind.MMIO
        return Kind.OTHER

    @property
    def pfn(self) -> int:
        """Host frame of the page or table (of a leaf above level 1: its first)."""
        return (self.raw & FRAME) >> 12

    @property
    def mmio_gfn(self) -> int:
        """Guest frame an MMIO entry remembers (get_mmio_spte_gfn)."""
        return (self.raw & FRAME & ~(1 << 51)) >> 12

    @property
    def mmio_generation(self) -> int:
        """The 19 bits of the memslot generation in an MMIO entry (get_mmio_spte_generation)."""
        return (self.raw & MMIO_GEN_LOW) >> MMIO_GEN_LOW_SHIFT | (
            self.raw & MMIO_GEN_HIGH
        ) >> MMIO_GEN_HIGH_SHIFT

    @property
    def writable(self) -> bool:
        """The processor may write through it."""
        return bool(self.raw & WRITABLE)

    @property
    def user(self) -> bool:
        """User mode may use it (for nested page tables: anybody may)."""
        return bool(self.raw & USER)

    @property
    def executable(self) -> bool:
        """The processor may fetch through it."""
        return not self.raw & NX

    @property
    def accessed(self) -> bool:
        """Bit 5."""
        return bool(self.raw & ACCESSED)

    @property
    def dirty(self) -> bool:
        """Bit 6."""
        return bool(self.raw & DIRTY)

    @property
    def host_writable(self) -> bool:
        """The host's own mapping lets KVM write the page."""
        return bool(self.raw & HOST_WRITABLE)

    @property
    def mmu_writable(self) -> bool:
        """No shadowed guest table forbids writing: the fast page fault may restore W."""
        return bool(self.raw & MMU_WRITABLE)

    @property
    def ad_type(self) -> int:
        """0: accessed and dirty bits in use; 1: disabled; 2: write-protect only."""
        return self.raw >> AD_TYPE_SHIFT & 3

    def with_pfn(self, pfn: int) -> Spte:
        """The same entry pointing elsewhere."""
        return Spte(self.raw & ~FRAME | pfn << 12, self.level)

    def __str__(self) -> str:
        """One line: ``0x8000000000107967 leaf pfn 0x107 rw-u AD host mmu``."""
        return f"{self.raw:#018x} {self.kind.value}{self._details()}"

    def _details(self) -> str:
        if self.kind is Kind.MMIO:
            access = _letters(("w", self.writable), ("u", self.user))
            return f" gfn {self.mmio_gfn:#x} {access} generation {self.mmio_generation}"
        if self.kind not in (Kind.LEAF, Kind.TABLE):
            return ""
        access = _letters(
            ("r", bool(self.raw & PRESENT)),
            ("w", self.writable),
            ("x", self.executable),
            ("u", self.user),
        )
        used = _letters(("A", self.accessed), ("D", self.dirty))
        where = f" pfn {self.pfn:#x} {access} {used}"
        if self.kind is Kind.TABLE:
            return where
        host = " host" if self.host_writable else ""
        return where + host + (" mmu" if self.mmu_writable else "")


def _letters(*flags: tuple[str, bool]) -> str:
    return "".join(letter if is_set else "-" for letter, is_set in flags)
