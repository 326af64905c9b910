"""A fault that only needs bits back which KVM took is fixed without mmu_lock (mmu.c: fast_page_fault).

W was taken for dirty logging; where it was taken because a table is shadowed, the spte is not MMU-writable.
R, W and X were taken to notice the next access, where the processor has no accessed flags.
"""

from typing import Final

from mmu_model.kvm.fault import KvmPageFault, RetPf
from mmu_model.kvm.guest_memory import mark_page_dirty
from mmu_model.kvm.page import root_to_sp, sptep_to_sp
from mmu_model.kvm.spte import (
    PT_PRESENT_MASK,
    PT_WRITABLE_MASK,
    is_last_spte,
    is_shadow_present_pte,
    is_writable_pte,
)
from mmu_model.kvm.task import Steps
from mmu_model.kvm.types import PG_LEVEL_4K, Sptep
from mmu_model.kvm.vcpu import KvmVcpu
from mmu_model.tdp.iter import TdpIter

RETRIES: Final = 4


def fast_page_fault(vcpu: KvmVcpu, fault: KvmPageFault) -> Steps[RetPf]:
    """FIXED or SPURIOUS if that was all; INVALID if the fault has to be handled under the lock."""
    result: RetPf | None = None
    with vcpu.kvm.rcu.read:
        for _ in range(1 + RETRIES):
            yield "looks for the last spte"
            result = yield from _try_once(vcpu, fault)
            if result is not None:
                break
    result = result or RetPf.INVALID
    if result is not RetPf.INVALID:
        vcpu.stat["pf_fast"] += 1
    return result


def page_fault_can_be_fast(vcpu: KvmVcpu, fault: KvmPageFault) -> bool:
    """Whether the fault may be about a bit that was taken away (mmu.c)."""
    if fault.rsvd:
        return False
    return fault.write if fault.present else not vcpu.kvm.masks.accessed


def _try_once(vcpu: KvmVcpu, fault: KvmPageFault) -> Steps[RetPf | None]:
    """What the fault comes to; None if the spte was changed meanwhile."""
    kvm = vcpu.kvm
    sptep, spte = _last_spte(vcpu, fault)
    if not is_shadow_present_pte(spte):
        return RetPf.INVALID
    level = sptep_to_sp(kvm.host, sptep).role.level
    if not is_last_spte(spte, level):
        return RetPf.INVALID
    if is_access_allowed(vcpu, fault, spte):
        return RetPf.SPURIOUS
    new_spte = kvm.masks.restore_acc_track(spte) if kvm.masks.is_access_track(spte) else spte
    if fault.write and kvm.masks.is_mmu_writable(spte):
        if level > PG_LEVEL_4K and fault.slot is not None and fault.slot.dirty_bitmap is not None:
            return RetPf.INVALID  # only one frame of the large page would be noted as dirty
        new_spte |= PT_WRITABLE_MASK
    if new_spte == spte or not is_access_allowed(vcpu, fault, new_spte):
        return RetPf.INVALID
    fixed = yield from fast_pf_fix_direct_spte(vcpu, fault, sptep, spte, new_spte)
    return RetPf.FIXED if fixed else None


def _last_spte(vcpu: KvmVcpu, fault: KvmPageFault) -> tuple[Sptep, int]:
    """The lowest spte for the frame, and what it held (kvm_tdp_mmu_fast_pf_get_last_sptep)."""
    root = root_to_sp(vcpu.kvm.host, vcpu.mmu.root.hpa)
    assert root is not None, "the TDP MMU is used with roots of its own only"
    place = TdpIter(vcpu.kvm, root, fault.gfn)
    while place.try_step_down():
        pass
    return place.sptep, place.old_spte


def is_access_allowed(vcpu: KvmVcpu, fault: KvmPageFault, spte: int) -> bool:
    """Whether the spte grants what the guest wanted (mmu.c)."""
    if fault.exec:
        return vcpu.kvm.masks.is_executable(spte)
    return is_writable_pte(spte) if fault.write else bool(spte & PT_PRESENT_MASK)


def fast_pf_fix_direct_spte(
    vcpu: KvmVcpu, fault: KvmPageFault, sptep: Sptep, old_spte: int, new_spte: int
) -> Steps[bool]:
    """Exchange the spte; False if it was not what it had been any more (mmu.c)."""
    yield "exchanges the spte without the lock"
    if not vcpu.kvm.host.compare_exchange(sptep, old_spte, new_spte):
        return False
    yield "has exchanged the spte"
    if is_writable_pte(new_spte) and not is_writable_pte(old_spte):
        mark_page_dirty(fault.slot, fault.gfn)
    return True
