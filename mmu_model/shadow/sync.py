"""Bringing unsync pages into step with the guest's tables again (mmu.c, paging_tmpl.h: sync_spte)."""

from mmu_model.hardware.types import Hpa
from mmu_model.kvm.make_spte import make_spte
from mmu_model.kvm.mmio import get_mmio_spte_gfn, vcpu_clear_mmio_info
from mmu_model.kvm.page import (
    KvmMmuPage,
    kvm_mmu_page_get_access,
    kvm_mmu_page_get_gfn,
    kvm_mmu_page_set_translation,
    root_to_sp,
)
from mmu_model.kvm.spte import make_mmio_spte, spte_to_pfn
from mmu_model.kvm.task import Steps, finish
from mmu_model.kvm.types import PT64_ROOT_4LEVEL, Kva, Sptep
from mmu_model.kvm.vcpu import KvmVcpu
from mmu_model.shadow.accounting import write_protect_gfn
from mmu_model.shadow.gptes import Gptes
from mmu_model.shadow.sptes import clear_spte, drop_spte, mmu_spte_set, mmu_spte_update
from mmu_model.shadow.unsync import clear_parents, mmu_unsync_walk, unlink_unsync_page
from mmu_model.shadow.zap import InvalidList, kvm_mmu_prepare_zap_page, remote_flush_or_zap

SYNC_FAILED = -1


def kvm_mmu_sync_roots(vcpu: KvmVcpu) -> Steps[None]:
    """Synchronize everything that the vCPU's root reaches: the guest flushed its TLB, or may have.

    Where there is one root, it says without a lock whether there is anything to do.
    """
    mmu, lock = vcpu.mmu, vcpu.kvm.mmu_lock
    if mmu.root_role.direct or not mmu.root.is_valid:
        return
    vcpu_clear_mmio_info(vcpu)
    yield "looks whether anything below the root is unsync"
    if _has_one_root(vcpu) and not is_unsync_root(vcpu):
        return
    yield from lock.write.wait()
    with lock.write:
        for sp in _root_pages(vcpu):
            mmu_sync_children(vcpu, sp)


def is_unsync_root(vcpu: KvmVcpu) -> bool:
    """Whether the root, or anything below it, may be out of step with the guest's tables (mmu.c)."""
    sp = root_to_sp(vcpu.kvm.host, vcpu.mmu.root.hpa)
    return sp is not None and (sp.unsync or bool(sp.unsync_children))


def _has_one_root(vcpu: KvmVcpu) -> bool:
    return vcpu.mmu.cpu_role.base.level >= PT64_ROOT_4LEVEL or vcpu.mmu.pae_root is None


def _root_pages(vcpu: KvmVcpu) -> list[KvmMmuPage]:
    mmu, host = vcpu.mmu, vcpu.kvm.host
    if _has_one_root(vcpu) or mmu.pae_root is None:
        root = root_to_sp(host, mmu.root.hpa)
        return [] if root is None else [root]
    roots = (host.read(Sptep(Kva(mmu.pae_root + 8 * index))) for index in range(4))
    pages = [root_to_sp(host, Hpa(root)) for root in roots if root]
    return [sp for sp in pages if sp is not None]


def mmu_sync_children(vcpu: KvmVcpu, parent: KvmMmuPage) -> None:
    """Synchronize every unsync page below one.

    Their tables are write-protected first, all of them, and only then read: so no write of the guest comes
    between.
    """
    kvm = vcpu.kvm
    invalid_list: InvalidList = []
    while unsync := mmu_unsync_walk(kvm, parent):
        protected = flush = False
        for sp, _ in unsync:
            slot = vcpu.memslots.find(sp.gfn)
            protected |= slot is not None and write_protect_gfn(kvm, slot, sp.gfn)
        if protected:
            kvm.flush_remote_tlbs()
        for sp, path in unsync:
            unlink_unsync_page(kvm, sp)
            flush |= kvm_sync_page(vcpu, sp, invalid_list) > 0
            clear_parents(path)
        remote_flush_or_zap(kvm, invalid_list, flush=flush)


def kvm_sync_page(vcpu: KvmVcpu, sp: KvmMmuPage, invalid_list: InvalidList) -> int:
    """Synchronize one page; if that fails it is zapped, onto `invalid_list`.

    Positive: TLBs must be flushed. 0: they need not. SYNC_FAILED: the page is gone.
    """
    result = _sync_all_sptes(vcpu, sp)
    if result == SYNC_FAILED:
        kvm_mmu_prepare_zap_page(vcpu.kvm, sp, invalid_list)
    return result


def _sync_all_sptes(vcpu: KvmVcpu, sp: KvmMmuPage) -> int:
    if sp.role.direct or vcpu.mmu.sync_spte is None or not same_context(vcpu, sp):
        return SYNC_FAILED
    flush, unused = 0, vcpu.kvm.kernel.shadow_nonpresent_value
    for index, spte in enumerate(vcpu.kvm.host.words(sp.spt)):
        if spte == unused:
            continue
        result = vcpu.mmu.sync_spte(vcpu, sp, index)
        if result == SYNC_FAILED:
            return SYNC_FAILED
        flush |= result
    return flush


def same_context(vcpu: KvmVcpu, sp: KvmMmuPage) -> bool:
    """Whether the vCPU is in the mode that the page is for (kvm_sync_page_check)."""
    ignored = dict.fromkeys(("level", "access", "quadrant", "passthrough"), 0)
    return sp.role.replace(**ignored) == vcpu.mmu.root_role.replace(**ignored)


def sync_spte(vcpu: KvmVcpu, sp: KvmMmuPage, index: int) -> int:
    """Make one spte say what its gpte says now; results as of :func:`kvm_sync_page`."""
    kvm, sptep, gptes = vcpu.kvm, sp.sptep(index), Gptes(vcpu, sp)
    try:
        gpte = gptes.read(index)
    except LookupError:
        return SYNC_FAILED
    if gptes.is_unusable(gpte):
        drop_spte(kvm, sptep)
        return 1
    gfn, access, spte = gptes.gfn(gpte), gptes.access(gpte), kvm.host.read(sptep)
    if kvm.masks.is_mmio(spte):
        if get_mmio_spte_gfn(spte) == gfn:
            mmu_spte_set(kvm, sptep, make_mmio_spte(kvm.masks, vcpu.memslots.generation, gfn, access))
        else:
            clear_spte(kvm, sptep)
        return 0
    grants_nothing = access | kvm.masks.present == kvm.kernel.shadow_nonpresent_value  # EPT: not even to read
    if grants_nothing or gfn != kvm_mmu_page_get_gfn(sp, index):
        drop_spte(kvm, sptep)
        return 1
    if kvm.kernel.sync_skips_equal_access and kvm_mmu_page_get_access(sp, index) == access:
        return 0
    kvm_mmu_page_set_translation(sp, index, gfn, access)
    slot = vcpu.memslots.find(gfn)
    assert slot is not None, "with a slot go the pages that map its frames"
    new_spte, _ = finish(
        make_spte(
            kvm,
            sp,
            slot,
            access,
            gfn,
            spte_to_pfn(spte),
            spte,
            prefetch=True,
            can_unsync=False,
            host_writable=bool(spte & kvm.masks.host_writable),
        )
    )
    return int(mmu_spte_update(kvm, sptep, new_spte))
