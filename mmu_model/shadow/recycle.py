"""A VM has a limit of shadow pages: before more are made, the oldest have to go (mmu.c)."""

from typing import Final

from mmu_model.kvm.errors import KvmBug
from mmu_model.kvm.vm import Kvm
from mmu_model.shadow.zap import InvalidList, kvm_mmu_commit_zap_page, kvm_mmu_prepare_zap_page

KVM_MIN_FREE_MMU_PAGES: Final = 5
KVM_REFILL_PAGES: Final = 25


def kvm_mmu_available_pages(kvm: Kvm) -> int:
    """How many more pages there may be."""
    return max(kvm.n_max_mmu_pages - kvm.n_used_mmu_pages, 0)


def make_mmu_pages_available(kvm: Kvm) -> None:
    """See that there is room for what one fault, or one set of roots, may need.

    Raises
    ------
    KvmBug
        All pages are roots in use, so that none can go (ENOSPC).

    """
    available = kvm_mmu_available_pages(kvm)
    if available >= KVM_MIN_FREE_MMU_PAGES:
        return
    kvm_mmu_zap_oldest_mmu_pages(kvm, KVM_REFILL_PAGES - available)
    if not kvm_mmu_available_pages(kvm):
        raise KvmBug(f"all {kvm.n_used_mmu_pages} shadow pages are in use as roots")


def kvm_mmu_zap_oldest_mmu_pages(kvm: Kvm, count: int) -> int:
    """Zap pages from the oldest on, roots in use excepted, until `count` are gone; how many went.

    The children of a page go with it only if they are unsync.
    """
    invalid_list: InvalidList = []
    zapped = 0
    for sp in tuple(kvm.active_mmu_pages):
        if zapped >= count:
            break
        if sp in kvm.active_mmu_pages and not sp.root_count:
            zapped += kvm_mmu_prepare_zap_page(kvm, sp, invalid_list)
    kvm_mmu_commit_zap_page(kvm, invalid_list)
    kvm.stat["mmu_recycled"] += zapped
    return zapped
