"""Roots of the TDP MMU that no vCPU may use any more, and what becomes of their tables (tdp_mmu.c)."""

from mmu_model.kvm.errors import KvmBug
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.spte import is_shadow_present_pte
from mmu_model.kvm.vm import Kvm
from mmu_model.tdp.changed import handle_changed_spte
from mmu_model.tdp.root import kvm_tdp_mmu_put_root


def kvm_tdp_mmu_invalidate_all_roots(kvm: Kvm) -> None:
    """Mark every root invalid, and to be zapped by whoever called for it."""
    kvm.mmu_lock.assert_held_write()
    for root in kvm.tdp_mmu_roots:
        if not root.role.invalid:
            root.tdp_mmu_scheduled_root_to_zap = True
            root.role = root.role.replace(invalid=1)


def kvm_tdp_mmu_zap_invalidated_roots(kvm: Kvm) -> None:
    """Take the tables of these roots apart, and give the TDP MMU's own reference to each back."""
    with kvm.mmu_lock.read:
        for root in tuple(kvm.tdp_mmu_roots):
            if not root.tdp_mmu_scheduled_root_to_zap:
                continue
            root.tdp_mmu_scheduled_root_to_zap = False
            if not root.role.invalid:
                raise KvmBug("a root of the TDP MMU is to be zapped that is still valid")
            tdp_mmu_zap_root(kvm, root)
            kvm_tdp_mmu_put_root(kvm, root)


def tdp_mmu_zap_root(kvm: Kvm, root: KvmMmuPage) -> None:
    """Clear every entry of a root, so that all tables below it go.

    The kernel goes through the tables several times, from small entries to large ones, only so that it can
    be interrupted often.
    """
    unused = kvm.kernel.shadow_nonpresent_value
    for index, spte in enumerate(kvm.host.words(root.spt)):
        if is_shadow_present_pte(spte) and kvm.host.compare_exchange(root.sptep(index), spte, unused):
            handle_changed_spte(kvm, spte, unused, root.role.level)
