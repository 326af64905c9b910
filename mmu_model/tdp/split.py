"""A large page becomes a table of smaller ones (spte.c: make_huge_page_split_spte; tdp_mmu.c)."""

from mmu_model.hardware.types import PAGE_SHIFT
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.spte import PT_PAGE_SIZE_MASK
from mmu_model.kvm.types import PG_LEVEL_4K, SPTE_ENT_PER_PAGE, pages_per_hpage
from mmu_model.kvm.vm import Kvm


def split_into(kvm: Kvm, huge_spte: int, sp: KvmMmuPage) -> None:
    """Fill a page that nobody sees yet with what the large page maps."""
    for index in range(SPTE_ENT_PER_PAGE):
        kvm.host.write(sp.sptep(index), make_huge_page_split_spte(kvm, huge_spte, sp, index))


def make_huge_page_split_spte(kvm: Kvm, huge_spte: int, sp: KvmMmuPage, index: int) -> int:
    """The spte at `index` of the page `sp`; one of 4 KiB may be executable where a large one may not."""
    level = sp.role.level
    spte = huge_spte | index * pages_per_hpage(level) << PAGE_SHIFT
    if level > PG_LEVEL_4K:
        return spte
    spte &= ~PT_PAGE_SIZE_MASK
    if kvm.parameters.nx_huge_pages:
        spte = spte & ~kvm.masks.nx | kvm.masks.x
    return spte
