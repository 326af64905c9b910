"""A fault that only needs bits back that KVM took is fixed without mmu_lock (mmu.c: fast_page_fault).

The writable bit was taken for dirty logging, or, on a processor without accessed flags, all permissions to notice
the next access. Where the writable bit was taken because a table is shadowed, the spte is not MMU-writable. Only
direct pages are fixed in this way: of what the entry of another page maps the gfn is not certain without the lock.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from mmu_model.kvm.fault import RET_PF_FIXED, RET_PF_INVALID, RET_PF_SPURIOUS, KvmPageFault, RetPf
from mmu_model.kvm.guest_memory import mark_page_dirty
from mmu_model.kvm.page import sptep_to_sp
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

RETRIES: Final = 4


LastSpte = Callable[[], Steps[tuple[Sptep, int] | None]]
"""Finds the lowest spte for the fault, and what it held; None without any."""


def fast_page_fault(
    vcpu: KvmVcpu, fault: KvmPageFault, reading: AbstractContextManager[object], last_spte: LastSpte
) -> Steps[RetPf]:
    """FIXED or SPURIOUS if that was all; INVALID if the fault has to be handled under the lock.

    The caller has asked :func:`page_fault_can_be_fast` whether to try: few faults are worth it.

    Parameters
    ----------
    vcpu, fault :
        Who faulted, and on what.
    reading :
        What keeps the tables from being freed meanwhile.
    last_spte :
        The walk through them.

    """
    result: RetPf | None = None
    with reading:
        for _ in range(1 + RETRIES):
            yield "looks for the last spte"
            found = yield from last_spte()
            result = RET_PF_INVALID if found is None else (yield from _try_once(vcpu, fault, *found))
            if result is not None:
                break
    result = result or RET_PF_INVALID
    if result is not RET_PF_INVALID:
        vcpu.stat["pf_fast"] += 1
    return result


def page_fault_can_be_fast(vcpu: KvmVcpu, fault: KvmPageFault) -> bool:
    """Whether the fault may be about a bit that was taken away (mmu.c)."""
    if fault.rsvd:
        return False
    return fault.write if fault.present else not vcpu.kvm.masks.accessed


def _try_once(vcpu: KvmVcpu, fault: KvmPageFault, sptep: Sptep, spte: int) -> Steps[RetPf | None]:
    """What the fault comes to; None if the spte was changed meanwhile."""
    kvm = vcpu.kvm
    if not is_shadow_present_pte(spte):
        return RET_PF_INVALID
    level = sptep_to_sp(kvm.host, sptep).role.level
    if not is_last_spte(spte, level):
        return RET_PF_INVALID
    if is_access_allowed(vcpu, fault, spte):
        return RET_PF_SPURIOUS
    new_spte = spte
    if not kvm.masks.accessed and kvm.masks.is_access_track(spte):
        new_spte = kvm.masks.restore_acc_track(spte)
    if fault.write and kvm.masks.is_mmu_writable(spte):
        new_spte |= PT_WRITABLE_MASK
        if level > PG_LEVEL_4K and fault.slot is not None and fault.slot.dirty_bitmap is not None:
            return RET_PF_INVALID  # only one frame of the large page would be noted as dirty
    if new_spte == spte or not is_access_allowed(vcpu, fault, new_spte):
        return RET_PF_INVALID
    fixed = yield from fast_pf_fix_direct_spte(vcpu, fault, sptep, spte, new_spte)
    return RET_PF_FIXED if fixed else None


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
