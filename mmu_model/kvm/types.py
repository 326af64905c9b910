"""Addresses and sizes that both MMUs count in."""

from typing import Final, NewType

from mmu_model.hardware.types import PAGE_SHIFT, Gfn, Hpa

Hva = NewType("Hva", int)
"""An address in the process that uses KVM."""

Kva = NewType("Kva", int)
"""An address in the kernel: what a pointer holds."""

Sptep = NewType("Sptep", int)
"""The address of one spte in the kernel, `u64 *`."""

PAGE_OFFSET: Final = 0xFFFF_8880_0000_0000
"""Where the kernel maps all physical memory (Documentation/arch/x86/x86_64/mm.rst)."""

INVALID_PAGE: Final = Hpa(-1)
"""The root of an MMU that has none (kvm_host.h)."""

PG_LEVEL_4K: Final = 1
PG_LEVEL_2M: Final = 2
PG_LEVEL_1G: Final = 3
KVM_MAX_HUGEPAGE_LEVEL: Final = PG_LEVEL_1G

PT32_ROOT_LEVEL: Final = 2
PT32E_ROOT_LEVEL: Final = 3
PT64_ROOT_4LEVEL: Final = 4
PT64_ROOT_5LEVEL: Final = 5

SPTE_LEVEL_BITS: Final = 9
SPTE_ENT_PER_PAGE: Final = 1 << SPTE_LEVEL_BITS


FRAMES_MASK: Final = tuple(-1 << SPTE_LEVEL_BITS * max(level - 1, 0) for level in range(PT64_ROOT_5LEVEL + 1))
"""By level the bits of a frame number that are the same in all frames that one spte spans."""


def va(address: Hpa) -> Kva:
    """Where the kernel sees physical memory: `__va`."""
    return Kva(PAGE_OFFSET + address)


def pa(pointer: Kva) -> Hpa:
    """The physical memory that the kernel sees there: `__pa`."""
    return Hpa(pointer - PAGE_OFFSET)


def pages_per_hpage(level: int) -> int:
    """4-KiB frames that one spte of that level spans: `KVM_PAGES_PER_HPAGE`."""
    return 1 << SPTE_LEVEL_BITS * (level - 1)


def gfn_round_for_level(gfn: int, level: int) -> Gfn:
    """The first frame of what one spte of that level spans (mmu_internal.h)."""
    return Gfn(gfn & FRAMES_MASK[level])


def spte_index(sptep: Sptep) -> int:
    """Which entry of its page an spte is."""
    return sptep >> 3 & SPTE_ENT_PER_PAGE - 1


def shadow_index(address: int, level: int) -> int:
    """Which entry of a table of that level translates an address: `SPTE_INDEX`."""
    return address >> PAGE_SHIFT + SPTE_LEVEL_BITS * (level - 1) & SPTE_ENT_PER_PAGE - 1
