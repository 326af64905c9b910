"""Roots of the TDP MMU: one for each role, shared by all vCPUs that need it (tdp_mmu.c).

Whoever uses a root has a reference to it. The TDP MMU itself has one until the root is invalidated and its
tables are taken apart: so the last reference is never to a valid root.
"""

from collections.abc import Callable

from mmu_model.hardware.types import Gfn
from mmu_model.kvm.errors import KvmBug
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.role import PageRole
from mmu_model.kvm.task import Steps
from mmu_model.kvm.types import Sptep
from mmu_model.kvm.vcpu import KvmVcpu
from mmu_model.kvm.vm import Kvm

REFERENCES_OF_A_NEW_ROOT = 2
"""One of the vCPU, one of the TDP MMU itself, which keeps it until the root is invalidated."""


def kvm_tdp_mmu_alloc_root(vcpu: KvmVcpu) -> Steps[None]:
    """Load a usable root of the vCPU's role: found, or made (6.1: kvm_tdp_mmu_get_vcpu_root_hpa)."""
    kvm, mmu = vcpu.kvm, vcpu.mmu
    exclusive = kvm.kernel.tdp_root_alloc_exclusive
    hold = kvm.mmu_lock.write if exclusive else kvm.mmu_lock.read
    yield from hold.wait()
    with hold:
        root = None if exclusive else (yield from _find_root(kvm, mmu.root_role))
        if root is None:
            root = yield from _find_or_make_root(kvm, mmu.root_role)
    mmu.root.hpa = root.hpa
    mmu.root.pgd = 0


def _find_root(kvm: Kvm, role: PageRole) -> Steps[KvmMmuPage | None]:
    """A valid root of that role, with a reference to it."""
    root = yield from tdp_mmu_next_root(kvm, None, only_valid=True)
    while root is not None and not is_usable_root(root, role):
        root = yield from tdp_mmu_next_root(kvm, root, only_valid=True)
    return root


def is_usable_root(root: KvmMmuPage, role: PageRole) -> bool:
    """Whether a vCPU that needs this role may share the root; an invalid one has another role."""
    return root.role == role


def _find_or_make_root(kvm: Kvm, role: PageRole) -> Steps[KvmMmuPage]:
    """The same, once nobody else can add one: then a new one, if there still is none."""
    yield from kvm.tdp_mmu_pages_lock.wait()
    with kvm.tdp_mmu_pages_lock:
        for root in kvm.tdp_mmu_roots:
            if is_usable_root(root, role) and (yield from kvm_tdp_mmu_get_root(root)):
                return root
        return new_root(kvm, role)


def new_root(kvm: Kvm, role: PageRole) -> KvmMmuPage:
    """A root, on the list, with the references that it starts with."""
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


def kvm_tdp_mmu_get_root(root: KvmMmuPage) -> Steps[bool]:
    """Take a reference, unless the last one is gone (`refcount_inc_not_zero`); whether there is one now."""
    yield "takes a reference to a root"
    if not root.tdp_mmu_root_count:
        return False
    root.tdp_mmu_root_count += 1
    return True


def kvm_tdp_mmu_put_root(kvm: Kvm, root: KvmMmuPage) -> Steps[None]:
    """Let go of a root; with the last reference it leaves the list, and is freed when nobody can see it.

    Raises
    ------
    KvmBug
        It was the last reference to a valid root, or there was none.

    """
    if not (yield from _dec_and_test(root)):
        return
    if not root.role.invalid:
        raise KvmBug("the last reference to a root of the TDP MMU that is still valid")
    yield from kvm.tdp_mmu_pages_lock.wait()
    with kvm.tdp_mmu_pages_lock:
        kvm.tdp_mmu_roots.remove(root)
    kvm.rcu.call(lambda: root.free(kvm.host))


def _dec_and_test(root: KvmMmuPage) -> Steps[bool]:
    """`refcount_dec_and_test`: one reference less; whether it was the last."""
    yield "lets go of a reference to a root"
    if not root.tdp_mmu_root_count:
        raise KvmBug("more references to a root of the TDP MMU were let go of than taken")
    root.tdp_mmu_root_count -= 1
    return not root.tdp_mmu_root_count


def tdp_mmu_next_root(
    kvm: Kvm, previous: KvmMmuPage | None, *, only_valid: bool = False
) -> Steps[KvmMmuPage | None]:
    """The root behind `previous` (None: the first), with a reference to it; that to `previous` is let go of.

    Thus the caller may give mmu_lock away between two roots, and go on from where it was. None at the end.
    """
    kvm.mmu_lock.assert_held()
    with kvm.rcu.read:
        roots = tuple(kvm.tdp_mmu_roots)
        found = None
        for root in roots[roots.index(previous) + 1 :] if previous else roots:
            if (not only_valid or not root.role.invalid) and (yield from kvm_tdp_mmu_get_root(root)):
                found = root
                break
    if previous:
        yield from kvm_tdp_mmu_put_root(kvm, previous)
    return found


def for_each_root_of(
    kvm: Kvm,
    slot: KvmMemorySlot,
    work: Callable[[KvmMmuPage], Steps[object]],
    *,
    only_valid: bool = True,
) -> Steps[bool]:
    """Work on every root that maps the slot, whose address space that is; whether any of it came to True."""
    found = False
    root = yield from tdp_mmu_next_root(kvm, None, only_valid=only_valid)
    while root is not None:
        if root.role.smm == slot.as_id:
            found |= bool((yield from work(root)))
        root = yield from tdp_mmu_next_root(kvm, root, only_valid=only_valid)
    return found
