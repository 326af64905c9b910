"""Roots: what the processor's CR3, nCR3 or EPTP is loaded with, how a vCPU gets and loses them (mmu.c)."""

from mmu_model.hardware.types import Hpa
from mmu_model.kvm.context import kvm_init_mmu
from mmu_model.kvm.mmio import vcpu_clear_mmio_info
from mmu_model.kvm.mmu import KvmMmu, RootInfo
from mmu_model.kvm.page import is_tdp_mmu_page, root_to_sp
from mmu_model.kvm.requests import check_request
from mmu_model.kvm.role import PageRole
from mmu_model.kvm.task import Steps, finish
from mmu_model.kvm.types import INVALID_PAGE, Kva, Sptep
from mmu_model.kvm.vcpu import (
    KVM_REQ_LOAD_MMU_PGD,
    KVM_REQ_MMU_FREE_OBSOLETE_ROOTS,
    KVM_REQ_MMU_SYNC,
    KVM_REQ_TLB_FLUSH_CURRENT,
    KVM_REQ_TLB_FLUSH_GUEST,
    KvmVcpu,
)
from mmu_model.kvm.vm import Kvm


def kvm_mmu_load(vcpu: KvmVcpu) -> Steps[None]:
    """Get a root for the vCPU's mode, new or found, with everything below it in step with the guest."""
    direct, shadow, lock = vcpu.mmu.root_role.direct, vcpu.kvm.shadow, vcpu.kvm.mmu_lock
    if direct and vcpu.mmu.is_tdp and vcpu.kvm.parameters.tdp_mmu_enabled:
        yield from vcpu.kvm.tdp.kvm_tdp_mmu_alloc_root(vcpu)
    else:
        yield from lock.write.wait()
        if direct:
            shadow.mmu_alloc_direct_roots(vcpu)
        else:
            shadow.mmu_alloc_shadow_roots(vcpu)
    yield from shadow.kvm_mmu_sync_roots(vcpu)
    vcpu.requests |= KVM_REQ_LOAD_MMU_PGD


def kvm_mmu_unload(vcpu: KvmVcpu) -> None:
    """Let go of all roots."""
    for mmu in (vcpu.root_mmu, vcpu.guest_mmu):
        finish(kvm_mmu_free_roots(vcpu.kvm, mmu, [mmu.root, *mmu.prev_roots]))
    vcpu_clear_mmio_info(vcpu)


def kvm_mmu_reset_context(vcpu: KvmVcpu) -> None:
    """The guest's mode changed: start again with the MMU that it needs now."""
    kvm_mmu_unload(vcpu)
    kvm_init_mmu(vcpu)


def kvm_mmu_free_roots(kvm: Kvm, mmu: KvmMmu, roots: list[RootInfo]) -> Steps[None]:
    """Let go of these roots of an MMU: the loaded one, previous ones, or both."""
    for root in roots:
        if not root.is_valid:
            continue
        if root_to_sp(kvm.host, root.hpa) is not None:
            yield from free_root(kvm, root.hpa)
        elif root is mmu.root:
            yield from _free_pae_roots(kvm, mmu)
        root.hpa = INVALID_PAGE
        root.pgd = 0


def kvm_mmu_new_pgd(vcpu: KvmVcpu, new_pgd: int) -> None:
    """The guest selected other tables: take a root that is remembered, or none, so that one is got.

    The root that was loaded is remembered in its turn; of those remembered the one not used for longest goes.
    What is below the root that was taken is as it was left: whoever has to flush asks for that besides.
    """
    mmu, role = vcpu.mmu, vcpu.mmu.root_role
    if not _fast_pgd_switch(vcpu.kvm, mmu, new_pgd, role):
        return
    vcpu.requests |= KVM_REQ_LOAD_MMU_PGD
    vcpu_clear_mmio_info(vcpu)
    sp = root_to_sp(vcpu.kvm.host, mmu.root.hpa)
    if sp is not None and not role.direct:
        sp.write_flooding_count = 0


def _fast_pgd_switch(kvm: Kvm, mmu: KvmMmu, new_pgd: int, role: PageRole) -> bool:
    """Whether a usable root is loaded now. Roots without a shadow page are never remembered."""
    if mmu.root.is_valid and root_to_sp(kvm.host, mmu.root.hpa) is None:
        finish(kvm_mmu_free_roots(kvm, mmu, [mmu.root]))
    roots = [mmu.root, *mmu.prev_roots]
    usable = next((root for root in roots if is_root_usable(kvm, root, new_pgd, role)), None)
    if mmu.root.is_valid:
        _keep_current(kvm, mmu, roots, usable)
    elif usable:
        mmu.root = usable
        mmu.prev_roots = [root for root in mmu.prev_roots if root is not usable] + [RootInfo()]
    return usable is not None


def _keep_current(kvm: Kvm, mmu: KvmMmu, roots: list[RootInfo], usable: RootInfo | None) -> None:
    if usable is None:
        finish(kvm_mmu_free_roots(kvm, mmu, [roots[-1]]))
        usable = roots[-1]
    mmu.root = usable
    mmu.prev_roots = [root for root in roots if root is not usable]


def is_root_usable(kvm: Kvm, root: RootInfo, pgd: int, role: PageRole) -> bool:
    """Whether a root that a vCPU has or remembers is one for these tables and this role."""
    sp = root_to_sp(kvm.host, root.hpa) if root.is_valid else None
    return sp is not None and sp.role == role and (bool(role.direct) or root.pgd == pgd)


def free_root(kvm: Kvm, hpa: Hpa) -> Steps[None]:
    """A vCPU lets go of a root, in the way of the MMU that it is of (mmu_free_root_page)."""
    sp = root_to_sp(kvm.host, hpa)
    if sp is None:
        return
    if is_tdp_mmu_page(sp):
        yield from kvm.mmu_lock.read.wait()
        with kvm.mmu_lock.read:
            yield from kvm.tdp.kvm_tdp_mmu_put_root(kvm, sp)
    else:
        yield from kvm.mmu_lock.write.wait()
        with kvm.mmu_lock.write:
            kvm.shadow.put_root(kvm, sp)


def _free_pae_roots(kvm: Kvm, mmu: KvmMmu) -> Steps[None]:
    if mmu.pae_root is None:
        return
    for index in range(4):
        where = Sptep(Kva(mmu.pae_root + index * 8))
        root = kvm.host.read(where)
        if root:
            yield from free_root(kvm, Hpa(root))
            kvm.host.write(where, 0)


def kvm_mmu_free_obsolete_roots(vcpu: KvmVcpu) -> Steps[None]:
    """Let go of the roots that may not be used any more; of those without a shadow page in any case."""
    kvm = vcpu.kvm
    for mmu in (vcpu.root_mmu, vcpu.guest_mmu):
        obsolete = []
        for root in (mmu.root, *mmu.prev_roots):
            sp = root_to_sp(kvm.host, root.hpa) if root.is_valid else None
            if root.is_valid and (sp is None or kvm.is_obsolete(sp)):
                obsolete.append(root)
        yield from kvm_mmu_free_roots(kvm, mmu, obsolete)


def serve_requests(vcpu: KvmVcpu) -> Steps[None]:
    """What vcpu_enter_guest does before it enters (x86.c), so that `vcpu.mmu.root` may be loaded."""
    if check_request(vcpu, KVM_REQ_MMU_FREE_OBSOLETE_ROOTS):
        yield from kvm_mmu_free_obsolete_roots(vcpu)
    if check_request(vcpu, KVM_REQ_TLB_FLUSH_GUEST):
        vcpu.requests |= KVM_REQ_TLB_FLUSH_CURRENT
        yield from _sync_for_guest_flush(vcpu)
    if check_request(vcpu, KVM_REQ_MMU_SYNC):
        yield from vcpu.kvm.shadow.kvm_mmu_sync_roots(vcpu)
    if not vcpu.mmu.root.is_valid:
        yield from kvm_mmu_load(vcpu)


def _sync_for_guest_flush(vcpu: KvmVcpu) -> Steps[None]:
    """The guest flushed everything: with shadow paging its tables count from now on (kvm_vcpu_flush_tlb_guest).

    Roots that are remembered are not synchronized but given up, if anything below them is unsync.
    """
    kvm, mmu = vcpu.kvm, vcpu.mmu
    if kvm.parameters.tdp_enabled:
        return
    yield from kvm.shadow.kvm_mmu_sync_roots(vcpu)
    unsync = []
    for root in mmu.prev_roots:
        sp = root_to_sp(kvm.host, root.hpa) if root.is_valid else None
        if sp is not None and (sp.unsync or sp.unsync_children):
            unsync.append(root)
    yield from kvm_mmu_free_roots(kvm, mmu, unsync)
