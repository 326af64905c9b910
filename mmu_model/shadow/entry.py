"""The shadow MMU as the code that both MMUs share sees it: :class:`mmu_model.kvm.interfaces.ShadowMmu`."""

from mmu_model.shadow.direct import direct_page_fault, nonpaging_page_fault
from mmu_model.shadow.fetch import paging_page_fault
from mmu_model.shadow.invlpg import kvm_mmu_invalidate_addr, kvm_mmu_invlpg
from mmu_model.shadow.notifier import kvm_rmap_age_gfn_range, kvm_set_spte_gfn, kvm_unmap_gfn_range
from mmu_model.shadow.obsolete import kvm_zap_obsolete_pages
from mmu_model.shadow.recycle import kvm_mmu_zap_oldest_mmu_pages
from mmu_model.shadow.roots import mmu_alloc_direct_roots, mmu_alloc_shadow_roots, put_root
from mmu_model.shadow.slot import (
    kvm_mmu_slot_remove_write_access,
    kvm_mmu_write_protect_gfns,
    kvm_rmap_zap_collapsible_sptes,
)
from mmu_model.shadow.sync import kvm_mmu_sync_roots, sync_spte
from mmu_model.shadow.track_write import kvm_mmu_track_write, unprotect_gfn
from mmu_model.shadow.unsync import mmu_try_to_unsync_pages

__all__ = [
    "direct_page_fault",
    "kvm_mmu_invalidate_addr",
    "kvm_mmu_invlpg",
    "kvm_mmu_slot_remove_write_access",
    "kvm_mmu_sync_roots",
    "kvm_mmu_track_write",
    "kvm_mmu_write_protect_gfns",
    "kvm_mmu_zap_oldest_mmu_pages",
    "kvm_rmap_age_gfn_range",
    "kvm_rmap_zap_collapsible_sptes",
    "kvm_set_spte_gfn",
    "kvm_unmap_gfn_range",
    "kvm_zap_obsolete_pages",
    "mmu_alloc_direct_roots",
    "mmu_alloc_shadow_roots",
    "mmu_try_to_unsync_pages",
    "nonpaging_page_fault",
    "paging_page_fault",
    "put_root",
    "sync_spte",
    "unprotect_gfn",
]
