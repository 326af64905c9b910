"""Shadow page table entries: their bits, and what KVM reads out of them (mmu/spte.h, mmu/spte.c)."""

from dataclasses import dataclass
from typing import Final

from mmu_model.hardware.ept import EPT_EXECUTE, EPT_READ, EPT_WRITE
from mmu_model.hardware.types import PAGE_SHIFT, Hpa, Pfn
from mmu_model.kvm.role import ACC_USER_MASK, ACC_WRITE_MASK
from mmu_model.kvm.types import PG_LEVEL_4K

PT_PRESENT_MASK: Final = 1 << 0
PT_WRITABLE_MASK: Final = 1 << 1
PT_USER_MASK: Final = 1 << 2
PT_ACCESSED_MASK: Final = 1 << 5
PT_DIRTY_MASK: Final = 1 << 6
PT_PAGE_SIZE_MASK: Final = 1 << 7
PT64_NX_MASK: Final = 1 << 63

VMX_EPT_RWX_MASK: Final = EPT_READ | EPT_WRITE | EPT_EXECUTE
VMX_EPT_MISCONFIG_WX_VALUE: Final = EPT_WRITE | EPT_EXECUTE
VMX_EPT_IPAT_BIT: Final = 1 << 6
VMX_EPT_ACCESS_BIT: Final = 1 << 8
VMX_EPT_DIRTY_BIT: Final = 1 << 9
VMX_EPT_SUPPRESS_VE_BIT: Final = 1 << 63
MTRR_TYPE_WRBACK: Final = 6
VMX_EPT_MT_EPTE_SHIFT: Final = 3

SPTE_MMU_PRESENT_MASK: Final = 1 << 11
_PRESENT_OR_PAGE: Final = SPTE_MMU_PRESENT_MASK | PT_PAGE_SIZE_MASK
SPTE_BASE_ADDR_MASK: Final = (1 << 52) - (1 << PAGE_SHIFT)

SPTE_TDP_AD_MASK: Final = 3 << 52
SPTE_TDP_AD_ENABLED: Final = 0 << 52
SPTE_TDP_AD_DISABLED: Final = 1 << 52
SPTE_TDP_AD_WRPROT_ONLY: Final = 2 << 52

SHADOW_ACC_TRACK_SAVED_BITS_MASK: Final = 0b101
SHADOW_ACC_TRACK_SAVED_BITS_SHIFT: Final = 54

MMIO_SPTE_GEN_LOW_BITS: Final = 8
MMIO_SPTE_GEN_HIGH_BITS: Final = 11
MMIO_SPTE_GEN_LOW_SHIFT: Final = 3
MMIO_SPTE_GEN_HIGH_SHIFT: Final = 52 - MMIO_SPTE_GEN_LOW_BITS
MMIO_SPTE_GEN_LOW_MASK: Final = 0xFF << 3
MMIO_SPTE_GEN_HIGH_MASK: Final = 0x7FF << 52
MMIO_SPTE_GEN_MASK: Final = (1 << MMIO_SPTE_GEN_LOW_BITS + MMIO_SPTE_GEN_HIGH_BITS) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SpteMasks:
    """Where the bits are that differ between paging and EPT: the `shadow_*_mask` variables of spte.c.

    Attributes
    ----------
    present :
        What every present leaf has set.
    user, x, nx :
        User access (EPT: read access), execution granted, execution denied; what the format lacks is 0.
    accessed, dirty :
        The flags that the processor sets; 0 if KVM does without them.
    acc_track :
        What is taken from an spte so that the next access faults.
    memtype :
        The memory type of a leaf that maps ordinary memory, and not a device's, which is uncacheable, 0 (vmx.c:
        vmx_get_mt_mask); 0 where the host's MTRRs say it.
    host_writable, mmu_writable :
        Software bits: the host's mapping is writable; no shadowed guest table forbids writing.
    mmio_value, mmio_mask, mmio_access :
        How MMIO sptes are told, and which access bits they keep; 0 without MMIO sptes.

    """

    present: int
    user: int
    x: int
    nx: int
    accessed: int
    dirty: int
    acc_track: int
    memtype: int
    host_writable: int
    mmu_writable: int
    mmio_value: int
    mmio_mask: int
    mmio_access: int

    def is_mmio(self, spte: int) -> bool:
        """Whether the spte remembers that there is no memory at its gfn."""
        return bool(self.mmio_value) and spte & self.mmio_mask == self.mmio_value

    def is_mmu_writable(self, spte: int) -> bool:
        """Whether a fault may make the spte writable without asking for shadowed tables."""
        return bool(spte & self.mmu_writable)

    def is_executable(self, spte: int) -> bool:
        """Whether the processor may fetch through the spte."""
        return spte & (self.x | self.nx) == self.x

    def is_access_track(self, spte: int) -> bool:
        """Whether a present spte was made to fault so that the next access is noticed."""
        return not spte_ad_enabled(spte) and not spte & self.acc_track

    def is_accessed(self, spte: int) -> bool:
        """Whether the page was accessed, as far as a present spte tells."""
        if spte_ad_enabled(spte) and self.accessed:
            return bool(spte & self.accessed)
        return not self.is_access_track(spte)

    def is_dirty(self, spte: int) -> bool:
        """Whether the page was written, as far as a present spte tells."""
        if spte_ad_enabled(spte) and self.dirty:
            return bool(spte & self.dirty)
        return bool(spte & PT_WRITABLE_MASK)

    def has_volatile_bits(self, spte: int) -> bool:
        """Whether somebody may change bits of a present spte without holding mmu_lock."""
        writable = spte & PT_WRITABLE_MASK
        if not writable and self.is_mmu_writable(spte):
            return True
        if self.is_access_track(spte):
            return True
        if not spte_ad_enabled(spte):
            return False
        return not spte & self.accessed or bool(writable and not spte & self.dirty)

    def mark_for_access_track(self, spte: int) -> int:
        """The spte after aging: the next access sets A, or faults where there is no A."""
        if spte_ad_enabled(spte):
            return spte & ~self.accessed
        if self.is_access_track(spte):
            return spte
        saved = (spte & SHADOW_ACC_TRACK_SAVED_BITS_MASK) << SHADOW_ACC_TRACK_SAVED_BITS_SHIFT
        return (spte | saved) & ~self.acc_track

    def restore_acc_track(self, spte: int) -> int:
        """The spte before it was made to fault; but for W, which only a write that is logged gives back."""
        saved = spte >> SHADOW_ACC_TRACK_SAVED_BITS_SHIFT & SHADOW_ACC_TRACK_SAVED_BITS_MASK
        kept = SHADOW_ACC_TRACK_SAVED_BITS_MASK << SHADOW_ACC_TRACK_SAVED_BITS_SHIFT
        return spte & ~(self.acc_track | kept) | saved

    def changed_pte(self, spte: int, pfn: Pfn) -> int:
        """The spte for another frame, which may not be written to, and was not used yet (6.1:
        kvm_mmu_changed_pte_notifier_make_spte)."""
        flags = spte & ~(SPTE_BASE_ADDR_MASK | PT_WRITABLE_MASK | self.host_writable | self.mmu_writable)
        return self.mark_for_access_track(flags | pfn << PAGE_SHIFT)


def paging_masks(maxphyaddr: int) -> SpteMasks:
    """Shadow paging and NPT (spte.c: kvm_mmu_reset_all_pte_masks).

    A processor with 52 physical-address bits leaves none to be reserved, so there are no MMIO sptes.
    """
    mmio = 1 << 51 | PT_PRESENT_MASK if maxphyaddr < 52 else 0
    return SpteMasks(
        present=PT_PRESENT_MASK,
        user=PT_USER_MASK,
        x=0,
        nx=PT64_NX_MASK,
        accessed=PT_ACCESSED_MASK,
        dirty=PT_DIRTY_MASK,
        acc_track=0,
        memtype=0,
        host_writable=1 << 9,
        mmu_writable=1 << 10,
        mmio_value=mmio,
        mmio_mask=mmio,
        mmio_access=ACC_WRITE_MASK | ACC_USER_MASK,
    )


def ept_masks(*, has_ad_bits: bool, suppress_ve: bool) -> SpteMasks:
    """EPT, on a processor that has pages which can be executed and not read (kvm_mmu_set_ept_masks).

    R takes the place of the user bit. W and X without R is a misconfiguration, whatever the physical-address
    width, so there always are MMIO sptes; they keep no access bits. The guest's memory is write-back, and its
    PAT is ignored, as long as no device needs it otherwise (vmx.c: vmx_get_mt_mask).

    Parameters
    ----------
    has_ad_bits :
        Whether the processor has accessed and dirty flags for EPT, and KVM uses them (eptad=).
    suppress_ve :
        Whether present sptes have bit 63, and MMIO sptes must not.

    """
    suppress = VMX_EPT_SUPPRESS_VE_BIT if suppress_ve else 0
    return SpteMasks(
        present=suppress,
        user=EPT_READ,
        x=EPT_EXECUTE,
        nx=0,
        accessed=VMX_EPT_ACCESS_BIT if has_ad_bits else 0,
        dirty=VMX_EPT_DIRTY_BIT if has_ad_bits else 0,
        acc_track=VMX_EPT_RWX_MASK,
        memtype=MTRR_TYPE_WRBACK << VMX_EPT_MT_EPTE_SHIFT | VMX_EPT_IPAT_BIT,
        host_writable=1 << 57,
        mmu_writable=1 << 58,
        mmio_value=VMX_EPT_MISCONFIG_WX_VALUE,
        mmio_mask=VMX_EPT_RWX_MASK | suppress,
        mmio_access=0,
    )


def is_shadow_present_pte(spte: int) -> bool:
    """Whether the spte leads anywhere: a bit of KVM's own says so, for P may be 0 meanwhile."""
    return bool(spte & SPTE_MMU_PRESENT_MASK)


def is_writable_pte(spte: int) -> bool:
    """Whether the processor may write through a present spte."""
    return bool(spte & PT_WRITABLE_MASK)


def is_large_pte(spte: int) -> bool:
    """Whether a present spte above level 1 maps a page."""
    return bool(spte & PT_PAGE_SIZE_MASK)


def is_last_spte(spte: int, level: int) -> bool:
    """Whether a present spte of that level maps a page, rather than point at a shadow page."""
    return level == PG_LEVEL_4K or bool(spte & PT_PAGE_SIZE_MASK)


def is_nonleaf_spte(spte: int) -> bool:
    """Whether an spte above level 1 points at another page of sptes."""
    return spte & _PRESENT_OR_PAGE == SPTE_MMU_PRESENT_MASK


def spte_ad_enabled(spte: int) -> bool:
    """Whether the processor's accessed and dirty flags count in this spte."""
    return spte & SPTE_TDP_AD_MASK != SPTE_TDP_AD_DISABLED


def spte_to_pfn(spte: int) -> Pfn:
    """The host frame of the page or table that a present spte points at."""
    return Pfn((spte & SPTE_BASE_ADDR_MASK) >> PAGE_SHIFT)


def make_nonleaf_spte(masks: SpteMasks, child: Hpa, *, ad_disabled: bool) -> int:
    """An spte that points at the page of sptes at `child` and grants everything (spte.c)."""
    spte = SPTE_MMU_PRESENT_MASK | child | masks.present | PT_WRITABLE_MASK | masks.user | masks.x
    return spte | (SPTE_TDP_AD_DISABLED if ad_disabled else masks.accessed)


def make_mmio_spte(masks: SpteMasks, generation: int, gfn: int, access: int) -> int:
    """An spte that remembers that there is no memory at `gfn` (spte.c).

    Parameters
    ----------
    masks :
        The format.
    generation :
        Of the vCPU's memslots; the spte has room for 19 bits of it.
    gfn, access :
        What a fault on the spte is about.

    """
    kept = generation & MMIO_SPTE_GEN_MASK
    spte = kept << MMIO_SPTE_GEN_LOW_SHIFT & MMIO_SPTE_GEN_LOW_MASK
    spte |= kept << MMIO_SPTE_GEN_HIGH_SHIFT & MMIO_SPTE_GEN_HIGH_MASK
    return spte | masks.mmio_value | access & masks.mmio_access | gfn << PAGE_SHIFT
