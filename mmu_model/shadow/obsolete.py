"""Pages of a generation that is over (mmu.c: kvm_zap_obsolete_pages)."""

from mmu_model.kvm.vm import Kvm
from mmu_model.shadow.zap import InvalidList, kvm_mmu_commit_zap_page, kvm_mmu_prepare_zap_page


def kvm_zap_obsolete_pages(kvm: Kvm) -> None:
    """Zap from the oldest page on, up to the first that may still be used: newer ones may be too."""
    invalid_list: InvalidList = []
    while kvm.active_mmu_pages:
        oldest = next(iter(kvm.active_mmu_pages))
        if not kvm.is_obsolete(oldest):
            break
        kvm_mmu_prepare_zap_page(kvm, oldest, invalid_list)
    kvm_mmu_commit_zap_page(kvm, invalid_list)
