"""What the 64 bits of a shadow page table entry say (arch/x86/kvm/mmu/spte.h).

A VM has sptes of one layout only: that of EPT where guests run over it, else that of paging, which nested page
tables of AMD and shadow paging have.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

PRESENT, WRITABLE, USER = 1 << 0, 1 << 1, 1 << 2
ACCESSED, DIRTY, LARGE = 1 << 5, 1 << 6, 1 << 7
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

EPT_READABLE, EPT_EXECUTABLE = 1 << 0, 1 << 2
EPT_ACCESSED, EPT_DIRTY = 1 << 8, 1 << 9
EPT_HOST_WRITABLE = 1 << 57  # EPT_SPTE_HOST_WRITABLE
EPT_MMU_WRITABLE = 1 << 58  # EPT_SPTE_MMU_WRITABLE
EPT_RWX = EPT_READABLE | WRITABLE | EPT_EXECUTABLE
SAVED, SAVED_SHIFT = EPT_READABLE | EPT_EXECUTABLE, 54  # SHADOW_ACC_TRACK_SAVED_BITS_MASK
EPT_MISCONFIG_WX = 6  # VMX_EPT_MISCONFIG_WX_VALUE: written and executed, but not read

EMPTY_WORDS = (0, NX)  # 6.1, and SHADOW_NONPRESENT_VALUE since 6.10


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the bits are that differ: masks. ``user`` is what ``role.access`` calls that; with EPT it is the
    right to read. Execution is granted where of ``execution`` exactly the bits of ``executable`` are set.
    """

    readable: int
    user: int
    execution: int
    executable: int
    accessed: int
    dirty: int
    host_writable: int
    mmu_writable: int
    mmio_mask: int
    mmio_value: int
    mmio_access: int


class SpteFormat(Enum):
    """A layout, by name."""

    PAGING = "paging"
    EPT = "ept"


LAYOUTS = {
    SpteFormat.PAGING: Layout(
        readable=PRESENT,
        user=USER,
        execution=NX,
        executable=0,
        accessed=ACCESSED,
        dirty=DIRTY,
        host_writable=HOST_WRITABLE,
        mmu_writable=MMU_WRITABLE,
        mmio_mask=MMIO_VALUE,
        mmio_value=MMIO_VALUE,
        mmio_access=MMIO_ACCESS,
    ),
    SpteFormat.EPT: Layout(
        readable=EPT_READABLE,
        user=EPT_READABLE,
        execution=EPT_EXECUTABLE,
        executable=EPT_EXECUTABLE,
        accessed=EPT_ACCESSED,
        dirty=EPT_DIRTY,
        host_writable=EPT_HOST_WRITABLE,
        mmu_writable=EPT_MMU_WRITABLE,
        mmio_mask=EPT_RWX,
        mmio_value=EPT_MISCONFIG_WX,
        mmio_access=0,
    ),
}


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
    format: SpteFormat = SpteFormat.PAGING

    @property
    def layout(self) -> Layout:
        """Where the bits are."""
        return LAYOUTS[self.format]

    @property
    def kind(self) -> Kind:
        """Present entries are told by MMU_PRESENT alone (is_shadow_present_pte)."""
        if self.raw & MMU_PRESENT:
            return Kind.LEAF if self.level == 1 or self.raw & LARGE else Kind.TABLE
        if self.raw in EMPTY_WORDS:
            return Kind.EMPTY
        if self.raw & ~NX == FROZEN:
            return Kind.FROZEN
        if self.raw & self.layout.mmio_mask == self.layout.mmio_value:
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
    def readable(self) -> bool:
        """The processor may read through it."""
        return bool(self.raw & self.layout.readable)

    @property
    def user(self) -> bool:
        """User mode may use it (for nested page tables: anybody may; for EPT: it may be read)."""
        return bool(self.raw & self.layout.user)

    @property
    def executable(self) -> bool:
        """The processor may fetch through it."""
        return self.raw & self.layout.execution == self.layout.executable

    @property
    def accessed(self) -> bool:
        """The processor's accessed flag, bit 5 or, with EPT, 8; it means nothing where ``ad_type`` is 1."""
        return bool(self.raw & self.layout.accessed)

    @property
    def dirty(self) -> bool:
        """The processor's dirty flag, bit 6 or, with EPT, 9; it means nothing where ``ad_type`` is 1."""
        return bool(self.raw & self.layout.dirty)

    @property
    def host_writable(self) -> bool:
        """The host's own mapping lets KVM write the page."""
        return bool(self.raw & self.layout.host_writable)

    @property
    def mmu_writable(self) -> bool:
        """No shadowed guest table forbids writing: the fast page fault may restore W."""
        return bool(self.raw & self.layout.mmu_writable)

    @property
    def ad_type(self) -> int:
        """0: accessed and dirty bits in use; 1: disabled; 2: write-protect only."""
        return self.raw >> AD_TYPE_SHIFT & 3

    @property
    def restored(self) -> Spte:
        """With R and X again, if they were taken so that the next access is noticed: where the processor has
        no accessed flag, they are kept 54 bits further up meanwhile (mark_spte_for_access_track)."""
        tracked = self.format is SpteFormat.EPT and self.ad_type == 1 and not self.raw & EPT_RWX
        return replace(self, raw=self.raw | self.raw >> SAVED_SHIFT & SAVED) if tracked else self

    def with_pfn(self, pfn: int) -> Spte:
        """The same entry pointing elsewhere."""
        return replace(self, raw=self.raw & ~FRAME | pfn << 12)

    def __str__(self) -> str:
        """One line: ``0x8000000000107967 leaf pfn 0x107 rw-u AD host mmu``."""
        return f"{self.raw:#018x} {self.kind.value}{self._details()}"

    def _details(self) -> str:
        if self.kind is Kind.MMIO:
            keeps = self.layout.mmio_access
            access = _letters(("w", self.writable), ("u", self.user)) + " " if keeps else ""
            return f" gfn {self.mmio_gfn:#x} {access}generation {self.mmio_generation}"
        if self.kind not in (Kind.LEAF, Kind.TABLE):
            return ""
        access = _letters(
            ("r", self.readable),
            ("w", self.writable),
            ("x", self.executable),
            *([("u", self.user)] if self.format is SpteFormat.PAGING else []),
        )
        used = _letters(("A", self.accessed), ("D", self.dirty))
        where = f" pfn {self.pfn:#x} {access} {used}"
        if self.kind is Kind.TABLE:
            return where
        host = " host" if self.host_writable else ""
        return where + host + (" mmu" if self.mmu_writable else "")


def _letters(*flags: tuple[str, bool]) -> str:
    return "".join(letter if is_set else "-" for letter, is_set in flags)
