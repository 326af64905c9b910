"""Shadow pages that stand where an executable large page would be, but for the NX mitigation (mmu.c)."""

from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.vm import Kvm


def account_nx_huge_page(kvm: Kvm, sp: KvmMmuPage, *, possible: bool) -> None:
    """Note it in the page; if nothing else forbids the large page, in the VM too, so that it is recovered."""
    sp.nx_huge_page_disallowed = True
    if possible:
        kvm.possible_nx_huge_pages.setdefault(sp)
