"""Roots of the shadow MMU: one page, or four under a table that is no shadow page (mmu.c)."""

from mmu_model.hardware.types import PAGE_SHIFT, Gfn, Hpa
from mmu_model.kvm.guest_memory import is_visible
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.role import root_quadrant
from mmu_model.kvm.spte import PT_ACCESSED_MASK, PT_PRESENT_MASK, PT_USER_MASK, PT_WRITABLE_MASK
from mmu_model.kvm.types import (
    PT32_ROOT_LEVEL,
    PT32E_ROOT_LEVEL,
    PT64_ROOT_4LEVEL,
    PT64_ROOT_5LEVEL,
    Kva,
    Sptep,
    pa,
)
from mmu_model.kvm.vcpu import KVM_REQ_TRIPLE_FAULT, KvmVcpu
from mmu_model.kvm.vm import Kvm
from mmu_model.shadow.pages import kvm_mmu_get_shadow_page
from mmu_model.shadow.recycle import make_mmu_pages_available
from mmu_model.shadow.zap import InvalidList, kvm_mmu_commit_zap_page, kvm_mmu_prepare_zap_page


def mmu_alloc_root(vcpu: KvmVcpu, gfn: Gfn, quadrant: int, level: int) -> Hpa:
    """A page that the vCPU holds as a root."""
    role = vcpu.mmu.root_role.replace(level=level, quadrant=quadrant)
    sp = kvm_mmu_get_shadow_page(vcpu, gfn, role)
    sp.root_count += 1
    return sp.hpa


def mmu_alloc_direct_roots(vcpu: KvmVcpu) -> None:
    """Roots for guest-physical addresses: one at gfn 0, or under PAE paging four of 1 GiB each."""
    mmu = vcpu.mmu
    with vcpu.kvm.mmu_lock.write:
        make_mmu_pages_available(vcpu.kvm)
        if mmu.root_role.level >= PT64_ROOT_4LEVEL:
            mmu.root.hpa = mmu_alloc_root(vcpu, Gfn(0), 0, mmu.root_role.level)
        else:
            table = pae_root(vcpu)
            for index in range(4):
                gfn = Gfn(index << 30 - PAGE_SHIFT)
                root = mmu_alloc_root(vcpu, gfn, 0, PT32_ROOT_LEVEL)
                vcpu.kvm.host.write(_entry(table, index), root | PT_PRESENT_MASK)
            mmu.root.hpa = pa(table)
    mmu.root.pgd = 0


def mmu_alloc_shadow_roots(vcpu: KvmVcpu) -> None:
    """Roots that shadow the guest's: its top table, or the page directories below it."""
    mmu, kvm = vcpu.mmu, vcpu.kvm
    pgd = mmu.guest_pgd
    root_gfn = Gfn((pgd & (1 << 52) - 1) >> PAGE_SHIFT)
    if not is_visible(vcpu.memslots.find(root_gfn)):
        _bad_root(vcpu)
        return
    kvm.shadow_root_allocated = True
    with kvm.mmu_lock.write:
        make_mmu_pages_available(kvm)
        if mmu.cpu_role.base.level >= PT64_ROOT_4LEVEL:
            mmu.root.hpa = mmu_alloc_root(vcpu, root_gfn, 0, mmu.root_role.level)
        else:
            _alloc_pae_roots(vcpu, root_gfn)
    mmu.root.pgd = pgd


def _alloc_pae_roots(vcpu: KvmVcpu, root_gfn: Gfn) -> None:
    """Four page directories: quarters of a 32-bit guest's, or those that a PAE guest's PDPTEs name."""
    mmu, table = vcpu.mmu, pae_root(vcpu)
    flags = PT_PRESENT_MASK
    if mmu.root_role.level >= PT64_ROOT_4LEVEL:
        flags |= PT_ACCESSED_MASK | PT_WRITABLE_MASK | PT_USER_MASK
    pae_guest = mmu.cpu_role.base.level == PT32E_ROOT_LEVEL
    for index in range(4):
        gfn, quadrant = root_gfn, root_quadrant(index)
        if pae_guest:
            directory, quadrant = mmu.guest_paging.roots[index], 0
            if directory is None or not is_visible(vcpu.memslots.find(directory >> PAGE_SHIFT)):
                vcpu.kvm.host.write(_entry(table, index), 0)
                continue
            gfn = Gfn(directory >> PAGE_SHIFT)
        root = mmu_alloc_root(vcpu, gfn, quadrant, PT32_ROOT_LEVEL)
        vcpu.kvm.host.write(_entry(table, index), root | flags)
    mmu.root.hpa = _tables_above(vcpu, table, flags)


def _tables_above(vcpu: KvmVcpu, table: Kva, flags: int) -> Hpa:
    """A host that walks more levels than PAE gets tables above `table`, with one entry each."""
    mmu, host = vcpu.mmu, vcpu.kvm.host
    if mmu.root_role.level >= PT64_ROOT_4LEVEL:
        mmu.pml4_root = mmu.pml4_root or host.alloc_page()
        host.write(_entry(mmu.pml4_root, 0), pa(table) | flags)
        table = mmu.pml4_root
    if mmu.root_role.level == PT64_ROOT_5LEVEL:
        mmu.pml5_root = mmu.pml5_root or host.alloc_page()
        host.write(_entry(mmu.pml5_root, 0), pa(table) | flags)
        table = mmu.pml5_root
    return pa(table)


def _bad_root(vcpu: KvmVcpu) -> None:
    """The guest's CR3 points at no memory."""
    if vcpu.kvm.kernel.bad_root_is_dummy:
        vcpu.mmu.root.hpa = pa(vcpu.kvm.host.zero_page)
    else:
        vcpu.requests |= KVM_REQ_TRIPLE_FAULT


def pae_root(vcpu: KvmVcpu) -> Kva:
    """The vCPU's table of four PDPTEs, `mmu->pae_root`."""
    vcpu.mmu.pae_root = vcpu.mmu.pae_root or vcpu.kvm.host.alloc_page()
    return vcpu.mmu.pae_root


def _entry(table: Kva, index: int) -> Sptep:
    return Sptep(Kva(table + 8 * index))


def put_root(kvm: Kvm, sp: KvmMmuPage) -> None:
    """A vCPU lets go of a root; an invalid one that nobody holds any more is freed (mmu_free_root_page)."""
    sp.root_count -= 1
    if sp.root_count or not sp.role.invalid:
        return
    invalid_list: InvalidList = []
    kvm_mmu_prepare_zap_page(kvm, sp, invalid_list)
    kvm_mmu_commit_zap_page(kvm, invalid_list)
