"""INVLPG of a guest whose tables are shadowed (mmu.c: kvm_mmu_invlpg; 6.1 paging_tmpl.h: invlpg)."""

from contextlib import suppress

from mmu_model.hardware.types import Hpa
from mmu_model.kvm.mmio import vcpu_clear_mmio_info
from mmu_model.kvm.mmu import RootInfo
from mmu_model.kvm.page import KvmMmuPage, sptep_to_sp
from mmu_model.kvm.shadow_walk import for_each_shadow_entry
from mmu_model.kvm.spte import is_last_spte, is_shadow_present_pte
from mmu_model.kvm.types import Sptep, spte_index
from mmu_model.kvm.vcpu import KvmVcpu
from mmu_model.shadow.set_spte import prefetch_gpte
from mmu_model.shadow.sync import SYNC_FAILED
from mmu_model.shadow.zap import mmu_page_zap_pte


def kvm_mmu_invlpg(vcpu: KvmVcpu, address: int) -> None:
    """Bring what translates the address in step, below the loaded root and below those remembered.

    A root that is neither is synchronized when it is loaded again.
    """
    if vcpu.mmu.sync_spte is None:
        return
    for root in (vcpu.mmu.root, *vcpu.mmu.prev_roots):
        kvm_mmu_invalidate_addr(vcpu, address, root)


def kvm_mmu_invalidate_addr(vcpu: KvmVcpu, address: int, root: RootInfo) -> None:
    """Bring what translates the address below one root in step."""
    vcpu_clear_mmio_info(vcpu, address)
    if root.is_valid:
        with vcpu.kvm.mmu_lock.write:
            _invalidate_addr(vcpu, address, root.hpa)


def _invalidate_addr(vcpu: KvmVcpu, address: int, root: Hpa) -> None:
    kvm = vcpu.kvm
    for level, sptep in for_each_shadow_entry(vcpu, address, root):
        sp = sptep_to_sp(kvm.host, sptep)
        if kvm.kernel.invlpg_zaps:
            if is_last_spte(kvm.host.read(sptep), level):
                _drop_and_prefetch(vcpu, sp, sptep)
        elif sp.unsync:
            _sync_one(vcpu, sp, sptep)
        if not sp.unsync_children:
            return


def _sync_one(vcpu: KvmVcpu, sp: KvmMmuPage, sptep: Sptep) -> None:
    kvm, index = vcpu.kvm, spte_index(sptep)
    if kvm.host.read(sptep) == kvm.kernel.shadow_nonpresent_value or vcpu.mmu.sync_spte is None:
        return
    result = vcpu.mmu.sync_spte(vcpu, sp, index)
    if result == SYNC_FAILED:
        mmu_page_zap_pte(kvm, sp, sptep, None)
    if result:
        kvm.flush_remote_tlbs()


def _drop_and_prefetch(vcpu: KvmVcpu, sp: KvmMmuPage, sptep: Sptep) -> None:
    kvm = vcpu.kvm
    if not sp.unsync:
        return
    was_present = is_shadow_present_pte(kvm.host.read(sptep))
    mmu_page_zap_pte(kvm, sp, sptep, None)
    if was_present:
        kvm.flush_remote_tlbs()
    with suppress(LookupError):  # the host does not have the table in memory: left to the next fault
        prefetch_gpte(vcpu, sp, spte_index(sptep))
