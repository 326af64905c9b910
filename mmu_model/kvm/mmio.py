"""Accesses to guest-physical addresses without memory: what the vCPU and the sptes remember of them."""

from mmu_model.hardware.types import PAGE_SHIFT, Gfn
from mmu_model.kvm.memslot import KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS
from mmu_model.kvm.spte import (
    MMIO_SPTE_GEN_HIGH_MASK,
    MMIO_SPTE_GEN_HIGH_SHIFT,
    MMIO_SPTE_GEN_LOW_MASK,
    MMIO_SPTE_GEN_LOW_SHIFT,
    MMIO_SPTE_GEN_MASK,
)
from mmu_model.kvm.vcpu import KvmVcpu

_PAGE_MASK = -1 << PAGE_SHIFT


def vcpu_cache_mmio_info(vcpu: KvmVcpu, gva: int, gfn: Gfn, access: int) -> None:
    """Remember an access in the vCPU, unless the memslots are just changing (arch/x86/kvm/x86.h)."""
    generation = vcpu.memslots.generation
    if generation & KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS:
        return
    vcpu.mmio.gva = 0 if vcpu.mmu is vcpu.guest_mmu else gva & _PAGE_MASK
    vcpu.mmio.access = access
    vcpu.mmio.gfn = gfn
    vcpu.mmio.generation = generation


def vcpu_clear_mmio_info(vcpu: KvmVcpu, gva: int | None = None) -> None:
    """Forget it, if it was about that gva; None: whatever it was about."""
    if gva is None or vcpu.mmio.gva == gva & _PAGE_MASK:
        vcpu.mmio.gva = 0


def mmio_info_in_cache(vcpu: KvmVcpu, address: int, *, direct: bool) -> bool:
    """Whether the vCPU remembers that there is no memory at the address, a gpa if `direct`."""
    if vcpu.mmio.generation != vcpu.memslots.generation:
        return False
    if direct:
        return bool(vcpu.mmio.gfn) and vcpu.mmio.gfn == address >> PAGE_SHIFT
    return bool(vcpu.mmio.gva) and vcpu.mmio.gva == address & _PAGE_MASK


def get_mmio_spte_generation(spte: int) -> int:
    """The generation of the memslots, as far as an MMIO spte keeps it (spte.h)."""
    low = (spte & MMIO_SPTE_GEN_LOW_MASK) >> MMIO_SPTE_GEN_LOW_SHIFT
    return low | (spte & MMIO_SPTE_GEN_HIGH_MASK) >> MMIO_SPTE_GEN_HIGH_SHIFT


def get_mmio_spte_gfn(spte: int) -> Gfn:
    """The frame that an MMIO spte is about: bit 51 is the one that faults (mmu.c)."""
    return Gfn((spte & (1 << 51) - (1 << PAGE_SHIFT)) >> PAGE_SHIFT)


def check_mmio_spte(vcpu: KvmVcpu, spte: int) -> bool:
    """Whether an MMIO spte is still true: made for these memslots, and they are not changing (mmu.c)."""
    generation = vcpu.memslots.generation
    if generation & KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS:
        return False
    return generation & MMIO_SPTE_GEN_MASK == get_mmio_spte_generation(spte)
