"""Roots of the TDP MMU: one for each role, shared by all vCPUs that need it (tdp_mmu.c)."""

from mmu_model.hardware.types import Gfn
from mmu_model.kvm.errors import KvmBug
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.role import PageRole
from mmu_model.kvm.types import Sptep
from mmu_model.kvm.vcpu import KvmVcpu
from mmu_model.kvm.vm import Kvm

REFERENCES_OF_A_NEW_ROOT = 2
"""One of the vCPU, one of the TDP MMU itself, which keeps it until the root is invalidated."""


def kvm_tdp_mmu_alloc_root(vcpu: KvmVcpu) -> None:
    """Load a usable root of the vCPU's role: found, or made."""
    kvm, mmu = vcpu.kvm, vcpu.mmu
    with kvm.mmu_lock.write if kvm.kernel.tdp_root_alloc_exclusive else kvm.mmu_lock.read:
        root = find_root(kvm, mmu.root_role) or _new_root(kvm, mmu.root_role)
    mmu.root.hpa = root.hpa
    mmu.root.pgd = 0


def find_root(kvm: Kvm, role: PageRole) -> KvmMmuPage | None:
    """A root of that role, with one more reference; an invalid one has another role."""
    for root in kvm.tdp_mmu_roots:
        if root.role == role:
            root.tdp_mmu_root_count += 1
            return root
    return None


def _new_root(kvm: Kvm, role: PageRole) -> KvmMmuPage:
    root = tdp_mmu_alloc_sp(kvm, role, Gfn(0), None)
    root.tdp_mmu_root_count = REFERENCES_OF_A_NEW_ROOT
    kvm.tdp_mmu_roots.insert(0, root)
    return root


def tdp_mmu_alloc_sp(kvm: Kvm, role: PageRole, gfn: Gfn, ptep: Sptep | None) -> KvmMmuPage:
    """A page of the TDP MMU: on no list, in no hash, known only to the spte that points at it."""
    sp = KvmMmuPage(kvm.host, role, gfn, kvm.host.alloc_page(kvm.kernel.shadow_nonpresent_value))
    sp.ptep = ptep
    sp.tdp_mmu_page = True
    return sp


def kvm_tdp_mmu_put_root(kvm: Kvm, root: KvmMmuPage) -> None:
    """Let go of a root; the last reference can only be to an invalid one, whose sptes are gone."""
    root.tdp_mmu_root_count -= 1
    if root.tdp_mmu_root_count:
        return
    if not root.role.invalid:
        raise KvmBug("the last reference to a root of the TDP MMU that is still valid")
    kvm.tdp_mmu_roots.remove(root)
    root.free(kvm.host)
