"""Pages of a generation that is over (mmu.c: kvm_zap_obsolete_pages)."""

from typing import Final

from mmu_model.kvm.task import Steps
from mmu_model.kvm.vm import Kvm
from mmu_model.shadow.zap import InvalidList, commit_zap_page, kvm_mmu_prepare_zap_page

BATCH_ZAP_PAGES: Final = 10
"""After so many pages others who want mmu_lock get it."""


def kvm_zap_obsolete_pages(kvm: Kvm) -> Steps[None]:
    """Zap from the oldest page on, up to the first that may still be used: newer ones may be too."""
    invalid_list: InvalidList = []
    batch = 0
    while kvm.active_mmu_pages:
        oldest = next(iter(kvm.active_mmu_pages))
        if not kvm.is_obsolete(oldest):
            break
        if batch >= BATCH_ZAP_PAGES and kvm.mmu_lock.is_contended():
            batch = 0
            yield from kvm.mmu_lock.cond_resched()
            continue
        yield "zaps an obsolete page"
        batch += kvm_mmu_prepare_zap_page(kvm, oldest, invalid_list)
    yield from commit_zap_page(kvm, invalid_list)
