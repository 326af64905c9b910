"""The TDP MMU as the code that both MMUs share sees it: :class:`mmu_model.kvm.interfaces.TdpMmu`."""

from mmu_model.kvm.fault import KvmPageFault, RetPf
from mmu_model.kvm.task import finish
from mmu_model.kvm.vcpu import KvmVcpu
from mmu_model.tdp import map as faults
from mmu_model.tdp.huge_pages import kvm_tdp_mmu_try_split_huge_pages, kvm_tdp_mmu_zap_collapsible_sptes
from mmu_model.tdp.notifier import (
    kvm_tdp_mmu_age_gfn_range,
    kvm_tdp_mmu_set_spte_gfn,
    kvm_tdp_mmu_test_age_gfn,
    kvm_tdp_mmu_unmap_gfn_range,
)
from mmu_model.tdp.protect import (
    kvm_tdp_mmu_clear_dirty_pt_masked,
    kvm_tdp_mmu_clear_dirty_slot,
    kvm_tdp_mmu_write_protect_gfn,
    kvm_tdp_mmu_wrprot_slot,
)
from mmu_model.tdp.root import kvm_tdp_mmu_alloc_root, kvm_tdp_mmu_put_root
from mmu_model.tdp.zap import (
    kvm_tdp_mmu_invalidate_all_roots,
    kvm_tdp_mmu_zap_invalidated_roots,
    kvm_tdp_mmu_zap_sp,
)

__all__ = [
    "kvm_tdp_mmu_age_gfn_range",
    "kvm_tdp_mmu_alloc_root",
    "kvm_tdp_mmu_clear_dirty_pt_masked",
    "kvm_tdp_mmu_clear_dirty_slot",
    "kvm_tdp_mmu_invalidate_all_roots",
    "kvm_tdp_mmu_page_fault",
    "kvm_tdp_mmu_put_root",
    "kvm_tdp_mmu_set_spte_gfn",
    "kvm_tdp_mmu_test_age_gfn",
    "kvm_tdp_mmu_try_split_huge_pages",
    "kvm_tdp_mmu_unmap_gfn_range",
    "kvm_tdp_mmu_write_protect_gfn",
    "kvm_tdp_mmu_wrprot_slot",
    "kvm_tdp_mmu_zap_collapsible_sptes",
    "kvm_tdp_mmu_zap_invalidated_roots",
    "kvm_tdp_mmu_zap_sp",
]


def kvm_tdp_mmu_page_fault(vcpu: KvmVcpu, fault: KvmPageFault) -> RetPf:
    """A guest under nested paging faulted, and nothing comes in between."""
    return finish(faults.kvm_tdp_mmu_page_fault(vcpu, fault))
