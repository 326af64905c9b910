"""Wrong models: statements that no document has."""

from dataclasses import replace
from typing import Any

from conformance.broken import BrokenModel
from mmu_model.kvm.vcpu import KVM_REQ_MMU_FREE_OBSOLETE_ROOTS
from mmuspec.violations import violates


@violates("root_count/references-under-read-lock")
def roots_are_obtained_as_the_other_kernel_does(model: BrokenModel) -> None:
    """For read where it should be for write, and the other way round."""

    def change(original: Any) -> Any:
        def wrong(vcpu: Any) -> Any:
            right = vcpu.kvm.kernel
            vcpu.kvm.kernel = replace(right, tdp_root_alloc_exclusive=not right.tdp_root_alloc_exclusive)
            try:
                yield from original(vcpu)
            finally:
                vcpu.kvm.kernel = right

        return wrong

    model.wrap("tdp.root.kvm_tdp_mmu_alloc_root", change)


@violates("mmu_valid_gen/fast-zap-without-blocking")
def vcpus_are_told_without_the_lock(model: BrokenModel) -> None:
    """mmu_lock is let go of between the change of the generation and the zapping: faults get on."""

    def wrong(kvm: Any) -> Any:
        with kvm.mmu_lock.write:
            kvm.mmu_valid_gen = 1 - kvm.mmu_valid_gen
            if kvm.parameters.tdp_mmu_enabled:
                kvm.tdp.kvm_tdp_mmu_invalidate_all_roots(kvm)
        kvm.make_all_cpus_request(KVM_REQ_MMU_FREE_OBSOLETE_ROOTS)
        with kvm.mmu_lock.write:
            yield from kvm.shadow.kvm_zap_obsolete_pages(kvm)
        if kvm.parameters.tdp_mmu_enabled:
            yield from kvm.tdp.kvm_tdp_mmu_zap_invalidated_roots(kvm)

    model.replace("kvm.zap_all.kvm_mmu_zap_all_fast", wrong)
