"""All pages become unusable at once, and go behind the backs of the vCPUs (mmu.c: kvm_mmu_zap_all_fast)."""

from mmu_model.kvm.requests import wait_for_kicked
from mmu_model.kvm.task import Steps
from mmu_model.kvm.vcpu import KVM_REQ_MMU_FREE_OBSOLETE_ROOTS
from mmu_model.kvm.vm import Kvm


def kvm_mmu_zap_all_fast(kvm: Kvm) -> Steps[None]:
    """Pages of the shadow MMU turn obsolete by the VM's generation, those of the TDP MMU by their roots.

    slots_lock is held to the end: so there is at most one generation that is over, and it is gone by then.
    """
    kvm.slots_lock.assert_held()
    yield from kvm.mmu_lock.write.wait()
    with kvm.mmu_lock.write:
        kvm.mmu_valid_gen = next_generation(kvm.mmu_valid_gen)
        yield "invalidates the roots of the TDP MMU"
        if kvm.parameters.tdp_mmu_enabled:
            kvm.tdp.kvm_tdp_mmu_invalidate_all_roots(kvm)
        yield "requests that obsolete roots be let go of"
        kvm.make_all_cpus_request(KVM_REQ_MMU_FREE_OBSOLETE_ROOTS)
        yield from wait_for_kicked(kvm)
        yield from kvm.shadow.kvm_zap_obsolete_pages(kvm)
    if kvm.parameters.tdp_mmu_enabled:
        yield from kvm.tdp.kvm_tdp_mmu_zap_invalidated_roots(kvm)


def next_generation(generation: int) -> int:
    """Of two, the other one: pages of the last but one are gone by now."""
    return 0 if generation else 1
