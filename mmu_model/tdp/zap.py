"""The end of the TDP MMU's sptes: of roots that no vCPU may use any more, of a range, of all (tdp_mmu.c)."""

from mmu_model.hardware.types import Gfn
from mmu_model.kvm.errors import KvmBug
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.spte import is_last_spte, is_shadow_present_pte
from mmu_model.kvm.task import Steps
from mmu_model.kvm.types import PG_LEVEL_1G, PG_LEVEL_2M, PG_LEVEL_4K
from mmu_model.kvm.vm import Kvm
from mmu_model.tdp.changed import tdp_mmu_iter_set_spte, tdp_mmu_set_spte, tdp_mmu_set_spte_atomic
from mmu_model.tdp.iter import TdpIter, tdp_mmu_iter_cond_resched
from mmu_model.tdp.root import kvm_tdp_mmu_put_root, tdp_mmu_next_root


def kvm_tdp_mmu_invalidate_all_roots(kvm: Kvm) -> None:
    """Mark every root invalid, and to be zapped by whoever called for it."""
    kvm.mmu_lock.assert_held_write()
    for root in kvm.tdp_mmu_roots:
        if not root.role.invalid:
            root.tdp_mmu_scheduled_root_to_zap = True
            root.role = root.role.replace(invalid=1)


def kvm_tdp_mmu_zap_invalidated_roots(kvm: Kvm) -> Steps[None]:
    """Take the tables of these roots apart, and give the TDP MMU's own reference to each back."""
    yield from kvm.mmu_lock.read.wait()
    with kvm.mmu_lock.read:
        root = yield from tdp_mmu_next_root(kvm, None)
        while root is not None:
            if root.tdp_mmu_scheduled_root_to_zap:
                yield from _zap_invalidated_root(kvm, root)
            root = yield from tdp_mmu_next_root(kvm, root)


def _zap_invalidated_root(kvm: Kvm, root: KvmMmuPage) -> Steps[None]:
    root.tdp_mmu_scheduled_root_to_zap = False
    if not root.role.invalid:
        raise KvmBug("a root of the TDP MMU is to be zapped that is still valid")
    yield from tdp_mmu_zap_root(kvm, root)
    yield from kvm_tdp_mmu_put_root(kvm, root)


def tdp_mmu_zap_root(kvm: Kvm, root: KvmMmuPage) -> Steps[None]:
    """Clear every entry of a root, so that all tables below it go; mmu_lock is held for read.

    First all of 4 KiB, then all of 2 MiB, and so on: little at a time, to be able to give mmu_lock away often.
    The caller has a reference to the root, so that it is there whenever the lock comes back.
    """
    if not root.tdp_mmu_root_count:
        raise KvmBug("a root of the TDP MMU is to be zapped that nobody has a reference to")
    with kvm.rcu.read:
        for level in (PG_LEVEL_4K, PG_LEVEL_2M, PG_LEVEL_1G, root.role.level):
            yield from _zap_level(kvm, root, level)


def _zap_level(kvm: Kvm, root: KvmMmuPage, zap_level: int) -> Steps[None]:
    """Clear all entries of that level and of the lower ones (__tdp_mmu_zap_root)."""
    unused = kvm.kernel.shadow_nonpresent_value
    place = TdpIter(kvm, root, Gfn(0), zap_level)
    while place.valid:
        while is_shadow_present_pte(place.old_spte) and place.level <= zap_level:
            if (yield from tdp_mmu_iter_cond_resched(kvm, place)):
                break
            if (yield from tdp_mmu_set_spte_atomic(kvm, place, unused)):
                break
        place.next()


def kvm_tdp_mmu_zap_sp(kvm: Kvm, sp: KvmMmuPage) -> Steps[None]:
    """Clear the spte that points at a page, which goes with all that is below it.

    mmu_lock is held for write. A page without such an spte is a root, which does not go in this way: KvmBug.
    """
    sptep = sp.ptep
    if sptep is None:
        raise KvmBug("a root of the TDP MMU is to be zapped by the spte that points at it")
    unused, level = kvm.kernel.shadow_nonpresent_value, sp.role.level + 1
    yield from tdp_mmu_set_spte(kvm, sptep, kvm.host.read(sptep), unused, sp.gfn, level)


def tdp_mmu_zap_leafs(kvm: Kvm, root: KvmMmuPage, start: Gfn, end: Gfn) -> Steps[bool]:
    """Clear the leaf sptes for frames from `start` to before `end`; whether the TLBs are to be flushed.

    mmu_lock is held for write, and given away when others want it.
    """
    kvm.mmu_lock.assert_held_write()
    flush = False
    with kvm.rcu.read:
        place = TdpIter(kvm, root, start)
        while place.valid and place.gfn < end:
            if is_shadow_present_pte(place.old_spte) and is_last_spte(place.old_spte, place.level):
                if (yield from tdp_mmu_iter_cond_resched(kvm, place, flush=flush)):
                    flush = False
                else:
                    yield from tdp_mmu_iter_set_spte(kvm, place, kvm.kernel.shadow_nonpresent_value)
                    flush = flush or not root.role.invalid
            place.next()
    return flush
