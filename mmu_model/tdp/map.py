"""A fault under nested paging, answered by the TDP MMU (tdp_mmu.c: kvm_tdp_mmu_map)."""

from mmu_model.kvm.errors import KvmBug
from mmu_model.kvm.fast_page_fault import fast_page_fault, page_fault_can_be_fast
from mmu_model.kvm.fault import (
    RET_PF_CONTINUE,
    RET_PF_EMULATE,
    RET_PF_FIXED,
    RET_PF_INVALID,
    RET_PF_RETRY,
    RET_PF_SPURIOUS,
    RET_PF_WRITE_PROTECTED,
    KvmPageFault,
    RetPf,
)
from mmu_model.kvm.faultin import faultin_pfn, is_page_fault_stale
from mmu_model.kvm.hugepage import disallowed_hugepage_adjust, kvm_mmu_hugepage_adjust
from mmu_model.kvm.make_spte import make_spte
from mmu_model.kvm.page import KvmMmuPage, root_to_sp, sptep_to_sp
from mmu_model.kvm.page_track import page_fault_handle_page_track
from mmu_model.kvm.requests import flush_remote_tlbs
from mmu_model.kvm.role import ACC_ALL, child_level
from mmu_model.kvm.spte import (
    is_last_spte,
    is_nonleaf_spte,
    is_shadow_present_pte,
    make_mmio_spte,
    make_nonleaf_spte,
)
from mmu_model.kvm.task import Steps
from mmu_model.kvm.types import SPTE_ENT_PER_PAGE, Sptep
from mmu_model.kvm.vcpu import KvmVcpu
from mmu_model.kvm.vm import Kvm
from mmu_model.tdp.changed import PAGES_STAT, tdp_mmu_set_spte_atomic
from mmu_model.tdp.iter import TdpIter
from mmu_model.tdp.root import tdp_mmu_alloc_sp
from mmu_model.tdp.split import split_into


def kvm_tdp_mmu_page_fault(vcpu: KvmVcpu, fault: KvmPageFault) -> Steps[RetPf]:
    """A fault at a guest-physical address. Many vCPUs may be here at once: mmu_lock is held for read."""
    if page_fault_handle_page_track(fault):
        return RET_PF_WRITE_PROTECTED
    if page_fault_can_be_fast(vcpu, fault):
        result = yield from fast_page_fault(vcpu, fault, vcpu.kvm.rcu.read, lambda: _last_spte(vcpu, fault))
        if result is not RET_PF_INVALID:
            return result
    result = yield from faultin_pfn(vcpu, fault, ACC_ALL)
    if result is not RET_PF_CONTINUE:
        return result
    lock = vcpu.kvm.mmu_lock
    yield from lock.read.wait()
    with lock.read:
        if is_page_fault_stale(vcpu, fault):
            return RET_PF_RETRY
        return (yield from kvm_tdp_mmu_map(vcpu, fault))


def _last_spte(vcpu: KvmVcpu, fault: KvmPageFault) -> Steps[tuple[Sptep, int] | None]:
    """The lowest spte for the frame, and what it held (kvm_tdp_mmu_fast_pf_get_last_sptep)."""
    root = root_to_sp(vcpu.kvm.host, vcpu.mmu.root.hpa)
    if root is None:
        return None
    place = TdpIter(vcpu.kvm, root, fault.gfn)
    while place.try_step_down():
        yield "steps down"
    return place.sptep, place.old_spte


def kvm_tdp_mmu_map(vcpu: KvmVcpu, fault: KvmPageFault) -> Steps[RetPf]:
    """Walk down to the level of the page that can be mapped, making tables on the way; map it."""
    kvm = vcpu.kvm
    kvm_mmu_hugepage_adjust(kvm, fault)
    root = root_to_sp(kvm.host, vcpu.mmu.root.hpa)
    if root is None:
        raise KvmBug("a vCPU of the TDP MMU faulted without a root")
    frozen = kvm.kernel.frozen_spte
    with kvm.rcu.read:
        place = TdpIter(kvm, root, fault.gfn)
        while True:
            if fault.nx_huge_page_workaround_enabled:
                disallowed_hugepage_adjust(kvm, fault, place.old_spte, place.level)
            if place.old_spte == frozen:
                return RET_PF_RETRY
            if place.level == fault.goal_level:
                return (yield from _map_target_level(vcpu, fault, place))
            if not is_nonleaf_spte(place.old_spte) and not (yield from _add_table(kvm, fault, place)):
                return RET_PF_RETRY
            yield "steps down"
            if not place.try_step_down():
                return RET_PF_RETRY


def _add_table(kvm: Kvm, fault: KvmPageFault, place: TdpIter) -> Steps[bool]:
    """Link a new table, which maps what a large page there mapped so far; False if somebody was faster."""
    if not (yield from _make_room(kvm, place)):
        return False
    sp = new_child(kvm, place)
    possible = fault.huge_page_disallowed and fault.req_level >= place.level
    marks = fault.huge_page_disallowed and kvm.kernel.nx_marks_smaller_pages
    sp.nx_huge_page_disallowed = possible or marks
    links = tdp_mmu_split_huge_page if is_shadow_present_pte(place.old_spte) else tdp_mmu_link_sp
    if not (yield from links(kvm, place, sp)):
        sp.free(kvm.host)
        return False
    if possible:
        yield from kvm.tdp_mmu_pages_lock.wait()
        with kvm.tdp_mmu_pages_lock:
            if sp.nx_huge_page_disallowed:
                kvm.possible_nx_huge_pages.setdefault(sp)
    return True


def _make_room(kvm: Kvm, place: TdpIter) -> Steps[bool]:
    """Take a large page away that is not to be split (6.1); False if somebody was faster."""
    if kvm.kernel.fault_splits_huge_page or not is_shadow_present_pte(place.old_spte):
        return True
    return (yield from tdp_mmu_zap_spte_atomic(kvm, place))


def tdp_mmu_zap_spte_atomic(kvm: Kvm, place: TdpIter) -> Steps[bool]:
    """Clear an spte, whatever it leads to; False if somebody was faster.

    It is frozen until the TLBs are flushed, so that nobody makes another before.
    """
    if not (yield from tdp_mmu_set_spte_atomic(kvm, place, kvm.kernel.frozen_spte)):
        return False
    yield from flush_remote_tlbs(kvm)
    place.old_spte = kvm.kernel.shadow_nonpresent_value
    yield "thaws an spte"
    kvm.host.write(place.sptep, place.old_spte)
    return True


def new_child(kvm: Kvm, place: TdpIter) -> KvmMmuPage:
    """A page for the table below the entry that the walk is at (tdp_mmu_init_child_sp)."""
    role = sptep_to_sp(kvm.host, place.sptep).role
    return tdp_mmu_alloc_sp(kvm, role.replace(level=child_level(role.level)), place.gfn, place.sptep)


def tdp_mmu_link_sp(kvm: Kvm, place: TdpIter, sp: KvmMmuPage) -> Steps[bool]:
    """Make the entry that the walk is at point at a page; False if it changed meanwhile."""
    spte = make_nonleaf_spte(kvm.masks, sp.hpa, ad_disabled=not kvm.masks.accessed)
    if not (yield from tdp_mmu_set_spte_atomic(kvm, place, spte)):
        return False
    kvm.tdp_mmu_pages += 1
    return True


def tdp_mmu_split_huge_page(kvm: Kvm, place: TdpIter, sp: KvmMmuPage) -> Steps[bool]:
    """Put a table that maps the same in the place of a large page; False if the entry changed meanwhile."""
    split_into(kvm, place.old_spte, sp)
    if not (yield from tdp_mmu_link_sp(kvm, place, sp)):
        return False
    kvm.stat[PAGES_STAT[sp.role.level]] += SPTE_ENT_PER_PAGE
    return True


def _map_target_level(vcpu: KvmVcpu, fault: KvmPageFault, place: TdpIter) -> Steps[RetPf]:
    """The leaf (tdp_mmu_map_handle_target_level)."""
    kvm, wrprot = vcpu.kvm, False
    if fault.slot is None or fault.pfn is None:
        new_spte = make_mmio_spte(kvm.masks, vcpu.memslots.generation, place.gfn, ACC_ALL)
    else:
        new_spte, wrprot = yield from make_spte(
            kvm,
            sptep_to_sp(kvm.host, place.sptep),
            fault.slot,
            ACC_ALL,
            place.gfn,
            fault.pfn,
            place.old_spte,
            prefetch=fault.prefetch,
            can_unsync=True,
            host_writable=fault.map_writable,
        )
    old_spte, result = place.old_spte, RET_PF_FIXED
    if new_spte == old_spte:
        result = RET_PF_SPURIOUS
    elif not (yield from tdp_mmu_set_spte_atomic(kvm, place, new_spte)):
        return RET_PF_RETRY
    elif is_shadow_present_pte(old_spte) and not is_last_spte(old_spte, place.level):
        yield from flush_remote_tlbs(kvm)
    if wrprot and fault.write:
        return RET_PF_WRITE_PROTECTED
    return RET_PF_EMULATE if kvm.masks.is_mmio(new_spte) else result
