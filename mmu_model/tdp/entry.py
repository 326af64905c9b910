"""The TDP MMU as the code that both MMUs share sees it: :class:`mmu_model.kvm.interfaces.TdpMmu`."""

from mmu_model.tdp.invalidate import kvm_tdp_mmu_invalidate_all_roots, kvm_tdp_mmu_zap_invalidated_roots
from mmu_model.tdp.map import kvm_tdp_mmu_page_fault
from mmu_model.tdp.root import kvm_tdp_mmu_alloc_root, kvm_tdp_mmu_put_root
from mmu_model.tdp.slot import (
    kvm_tdp_mmu_try_split_huge_pages,
    kvm_tdp_mmu_unmap_gfn_range,
    kvm_tdp_mmu_write_protect_gfns,
    kvm_tdp_mmu_wrprot_slot,
    kvm_tdp_mmu_zap_collapsible_sptes,
)
from mmu_model.tdp.write_protect import kvm_tdp_mmu_write_protect_gfn

__all__ = [
    "kvm_tdp_mmu_alloc_root",
    "kvm_tdp_mmu_invalidate_all_roots",
    "kvm_tdp_mmu_page_fault",
    "kvm_tdp_mmu_put_root",
    "kvm_tdp_mmu_try_split_huge_pages",
    "kvm_tdp_mmu_unmap_gfn_range",
    "kvm_tdp_mmu_write_protect_gfn",
    "kvm_tdp_mmu_write_protect_gfns",
    "kvm_tdp_mmu_wrprot_slot",
    "kvm_tdp_mmu_zap_collapsible_sptes",
    "kvm_tdp_mmu_zap_invalidated_roots",
]
