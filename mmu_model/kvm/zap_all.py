"""All pages become unusable at once, and go behind the backs of the vCPUs (mmu.c: kvm_mmu_zap_all_fast)."""

from mmu_model.kvm.vcpu import Request
from mmu_model.kvm.vm import Kvm


def kvm_mmu_zap_all_fast(kvm: Kvm) -> None:
    """Pages of the shadow MMU turn obsolete by the VM's generation, those of the TDP MMU by their roots."""
    with kvm.mmu_lock.write:
        kvm.mmu_valid_gen = next_generation(kvm.mmu_valid_gen)
        if kvm.parameters.tdp_mmu_enabled:
            kvm.tdp.kvm_tdp_mmu_invalidate_all_roots(kvm)
        kvm.make_all_cpus_request(Request.MMU_FREE_OBSOLETE_ROOTS)
        kvm.shadow.kvm_zap_obsolete_pages(kvm)
    if kvm.parameters.tdp_mmu_enabled:
        kvm.tdp.kvm_tdp_mmu_zap_invalidated_roots(kvm)


def next_generation(generation: int) -> int:
    """Of two, the other one: pages of the last but one are gone by now."""
    return 0 if generation else 1
