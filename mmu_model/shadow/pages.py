"""Shadow pages: looked up by what they shadow, made if there is none, linked into the tables (mmu.c)."""

from mmu_model.hardware.types import Gfn
from mmu_model.kvm.page import KvmMmuPage, sp_has_gptes, spte_to_child_sp, sptep_to_sp
from mmu_model.kvm.rmap import pte_list_add
from mmu_model.kvm.role import PageRole, child_role
from mmu_model.kvm.spte import is_nonleaf_spte, is_shadow_present_pte, make_nonleaf_spte
from mmu_model.kvm.task import finish
from mmu_model.kvm.types import PG_LEVEL_4K, SPTE_ENT_PER_PAGE, Sptep, spte_index
from mmu_model.kvm.vcpu import KvmVcpu
from mmu_model.kvm.vm import Kvm
from mmu_model.shadow.accounting import account_shadowed
from mmu_model.shadow.sptes import drop_parent_pte, mmu_spte_set
from mmu_model.shadow.sync import SYNC_FAILED, kvm_sync_page
from mmu_model.shadow.unsync import mark_unsync
from mmu_model.shadow.zap import (
    InvalidList,
    kvm_mmu_commit_zap_page,
    kvm_mmu_prepare_zap_page,
    mmu_page_zap_pte,
    remote_flush_or_zap,
)


def kvm_mmu_get_shadow_page(vcpu: KvmVcpu, gfn: Gfn, role: PageRole) -> KvmMmuPage:
    """The page with that gfn and role: found, or made."""
    return kvm_mmu_find_shadow_page(vcpu, gfn, role) or kvm_mmu_alloc_shadow_page(vcpu.kvm, gfn, role)


def kvm_mmu_find_shadow_page(vcpu: KvmVcpu, gfn: Gfn, role: PageRole) -> KvmMmuPage | None:
    """A usable page with that gfn and role, in step with the guest's table at this moment.

    An unsync page is synchronized without being protected: it stays unsync. One that cannot be is replaced.
    Where an upper level is to be shadowed, unsync pages of the same frame have to go.
    """
    kvm, found = vcpu.kvm, None
    invalid_list: InvalidList = []
    for sp in kvm.valid_pages_at(gfn):
        if sp.role != role:
            if role.level > PG_LEVEL_4K and sp.unsync:
                kvm_mmu_prepare_zap_page(kvm, sp, invalid_list)
            continue
        if not sp.role.direct:
            if sp.unsync:
                result = kvm_sync_page(vcpu, sp, invalid_list)
                if result == SYNC_FAILED:
                    break
                if result:
                    kvm.flush_remote_tlbs()
            sp.write_flooding_count = 0
        found = sp
        break
    kvm_mmu_commit_zap_page(kvm, invalid_list)
    return found


def kvm_mmu_alloc_shadow_page(kvm: Kvm, gfn: Gfn, role: PageRole) -> KvmMmuPage:
    """A new page, newest of all: nothing points at it yet, but its table is watched already."""
    host = kvm.host
    sp = KvmMmuPage(host, role, gfn, host.alloc_page(kvm.kernel.shadow_nonpresent_value))
    if not role.direct and role.level <= kvm.kernel.shadowed_translation_max_level:
        sp.shadowed_translation = [0] * SPTE_ENT_PER_PAGE
    sp.mmu_valid_gen = kvm.mmu_valid_gen
    kvm.active_mmu_pages[sp] = None
    kvm.n_used_mmu_pages += 1
    kvm.bucket(gfn).insert(0, sp)
    if sp_has_gptes(sp):
        account_shadowed(kvm, sp)
    return sp


def kvm_mmu_get_child_sp(
    vcpu: KvmVcpu, sptep: Sptep, gfn: Gfn, *, direct: bool, access: int
) -> KvmMmuPage | None:
    """The page that an spte is to point at; None if it does already."""
    host = vcpu.kvm.host
    role = child_role(sptep_to_sp(host, sptep).role, spte_index(sptep), direct=direct, access=access)
    spte = host.read(sptep)
    if is_nonleaf_spte(spte):
        child = spte_to_child_sp(host, spte)
        if child.gfn == gfn and child.role == role:
            return None
    return kvm_mmu_get_shadow_page(vcpu, gfn, role)


def link_shadow_page(kvm: Kvm, sptep: Sptep, child: KvmMmuPage) -> None:
    """Make an spte point at a page, and the page point back at it. What the spte led to before goes."""
    host = kvm.host
    if is_shadow_present_pte(host.read(sptep)):
        invalid_list: InvalidList = []
        mmu_page_zap_pte(kvm, sptep_to_sp(host, sptep), sptep, invalid_list)
        remote_flush_or_zap(kvm, invalid_list, flush=True)
    spte = make_nonleaf_spte(kvm.masks, child.hpa, ad_disabled=bool(child.role.ad_disabled))
    mmu_spte_set(kvm, sptep, spte)
    pte_list_add(host, child.parent_ptes, sptep)
    if child.unsync or child.unsync_children:
        finish(mark_unsync(kvm, sptep))


def validate_direct_spte(kvm: Kvm, sptep: Sptep, access: int) -> None:
    """Unlink a direct page that has another access than the guest's large page has now."""
    spte = kvm.host.read(sptep)
    if not is_nonleaf_spte(spte):
        return
    child = spte_to_child_sp(kvm.host, spte)
    if child.role.access != access:
        drop_parent_pte(kvm, child, sptep)
        kvm.flush_remote_tlbs()
