"""Pages that stand where an executable large page would be, but for the NX mitigation, and how they go (mmu.c)."""

from typing import Final

from mmu_model.kvm.page import KvmMmuPage, is_tdp_mmu_page
from mmu_model.kvm.requests import flush_remote_tlbs
from mmu_model.kvm.task import Steps
from mmu_model.kvm.vm import Kvm, Parameters
from mmu_model.shadow.zap import InvalidList, commit_zap_page, kvm_mmu_prepare_zap_page

_HOUR_MS: Final = 60 * 60 * 1000
_SHORTEST: Final = 3600
"""The period is a second at least."""


def account_nx_huge_page(kvm: Kvm, sp: KvmMmuPage, *, possible: bool, nonpaging: bool = False) -> None:
    """Note it in the page; if nothing else forbids the large page, in the VM too, so that it is recovered."""
    if not kvm.kernel.nx_marks_smaller_pages and (nonpaging or not possible):
        return
    sp.nx_huge_page_disallowed = True
    if possible:
        kvm.possible_nx_huge_pages.setdefault(sp)


def unaccount_nx_huge_page(kvm: Kvm, sp: KvmMmuPage) -> None:
    """It is no such page any more."""
    sp.nx_huge_page_disallowed = False
    kvm.possible_nx_huge_pages.pop(sp, None)


def nx_huge_page_recovery_worker(kvm: Kvm, now_ms: int) -> Steps[bool]:
    """What the thread does when it wakes up at that time: nothing before the period is over.

    False if nothing is ever to be recovered (kvm_nx_huge_page_recovery_worker).
    """
    period = calc_nx_huge_pages_recovery_period(kvm.parameters)
    if period is None:
        return False
    if now_ms - kvm.nx_huge_page_last >= period:
        yield from kvm_recover_nx_huge_pages(kvm)
        kvm.nx_huge_page_last = now_ms
    return True


def calc_nx_huge_pages_recovery_period(parameters: Parameters) -> int | None:
    """Milliseconds from one recovery to the next; None without any."""
    ratio = parameters.nx_huge_pages_recovery_ratio
    if not parameters.nx_huge_pages or not ratio:
        return None
    return parameters.nx_huge_pages_recovery_period_ms or _HOUR_MS // min(ratio, _SHORTEST)


def kvm_recover_nx_huge_pages(kvm: Kvm) -> Steps[None]:
    """Zap some of these pages, the oldest first: one in `nx_huge_pages_recovery_ratio`, rounded up.

    A large page can be there then, until the guest fetches from it. mmu_lock is given away when others want it.
    """
    with kvm.srcu.read:
        yield from kvm.mmu_lock.write.wait()
        with kvm.mmu_lock.write:
            ratio = kvm.parameters.nx_huge_pages_recovery_ratio
            to_zap = -(-len(kvm.possible_nx_huge_pages) // ratio) if ratio else 0
            while to_zap and kvm.possible_nx_huge_pages:
                to_zap = yield from _recover_until_contended(kvm, to_zap)
                if kvm.mmu_lock.is_contended():
                    yield from kvm.mmu_lock.cond_resched()


def _recover_until_contended(kvm: Kvm, to_zap: int) -> Steps[int]:
    """How many are left to zap."""
    invalid_list: InvalidList = []
    flush = False
    with kvm.rcu.read:
        while to_zap and kvm.possible_nx_huge_pages:
            sp = next(iter(kvm.possible_nx_huge_pages))
            if kvm.kernel.nx_recovery_skips_logged_slots and _is_logged(kvm, sp):
                unaccount_nx_huge_page(kvm, sp)
            elif is_tdp_mmu_page(sp):
                yield from kvm.tdp.kvm_tdp_mmu_zap_sp(kvm, sp)
                flush = True
            else:
                kvm_mmu_prepare_zap_page(kvm, sp, invalid_list)
            to_zap -= 1
            if kvm.mmu_lock.is_contended():
                break
        if invalid_list:
            yield from commit_zap_page(kvm, invalid_list)
        elif flush:
            yield from flush_remote_tlbs(kvm)
    return to_zap


def _is_logged(kvm: Kvm, sp: KvmMmuPage) -> bool:
    slot = kvm.slots_for_role(sp.role).find(sp.gfn)
    return slot is not None and slot.dirty_bitmap is not None
