"""Walks of the tables that KVM made, from a vCPU's root down (mmu.c: kvm_shadow_walk_iterator)."""

from collections.abc import Iterator
from contextlib import contextmanager

from mmu_model.hardware.types import Hpa
from mmu_model.kvm.page import root_to_sp
from mmu_model.kvm.requests import leave_guest_mode
from mmu_model.kvm.split_spte import get_spte_lockless
from mmu_model.kvm.spte import SPTE_BASE_ADDR_MASK, is_nonleaf_spte
from mmu_model.kvm.task import Steps
from mmu_model.kvm.types import PG_LEVEL_4K, PT32E_ROOT_LEVEL, PT64_ROOT_4LEVEL, Kva, Sptep, shadow_index, va
from mmu_model.kvm.vcpu import KvmVcpu, VcpuMode


def walk_start(vcpu: KvmVcpu, root: Hpa, address: int) -> tuple[int, int]:
    """Level and place of the first table that holds sptes for an address; level 0 if there is none.

    PAE roots have no shadow page: the walk begins in the page directory that the right one of four leads to.
    """
    mmu, host = vcpu.mmu, vcpu.kvm.host
    level = mmu.root_role.level
    guest_level = mmu.cpu_role.base.level
    if level >= PT64_ROOT_4LEVEL > guest_level and not mmu.root_role.direct:
        level = PT32E_ROOT_LEVEL
    if level != PT32E_ROOT_LEVEL:
        return (level, root) if root_to_sp(host, root) else (0, root)
    if mmu.pae_root is None:
        return 0, root
    entry = host.read(Sptep(Kva(mmu.pae_root + (address >> 30 & 3) * 8))) & SPTE_BASE_ADDR_MASK
    return (level - 1, entry) if entry else (0, root)


def for_each_shadow_entry(
    vcpu: KvmVcpu, address: int, root: Hpa | None = None
) -> Iterator[tuple[int, Sptep]]:
    """Level and spte, from the root down, for as long as the sptes lead to another table.

    An spte is read only when the next step is asked for: what the caller makes of it decides.
    """
    read = vcpu.kvm.host.read
    level, table = walk_start(vcpu, vcpu.mmu.root.hpa if root is None else root, address)
    while level:
        sptep = Sptep(Kva(va(Hpa(table)) + shadow_index(address, level) * 8))
        yield level, sptep
        spte = read(sptep)
        if level == PG_LEVEL_4K or not is_nonleaf_spte(spte):
            return
        table = spte & SPTE_BASE_ADDR_MASK
        level -= 1


def last_spte_lockless(vcpu: KvmVcpu, address: int) -> Steps[tuple[Sptep, int] | None]:
    """Where the lowest spte for an address is and what it held; None without any (fast_pf_get_last_sptep).

    mmu_lock need not be held, but what is read must not be freed: :func:`reading_shadow_page_tables`.
    """
    found = None
    level, table = walk_start(vcpu, vcpu.mmu.root.hpa, address)
    while level:
        sptep = Sptep(Kva(va(Hpa(table)) + shadow_index(address, level) * 8))
        spte = yield from get_spte_lockless(vcpu.kvm.host, sptep)
        found = sptep, spte
        if level == PG_LEVEL_4K or not is_nonleaf_spte(spte):
            break
        yield "steps down"
        table = spte & SPTE_BASE_ADDR_MASK
        level -= 1
    return found


@contextmanager
def reading_shadow_page_tables(vcpu: KvmVcpu) -> Iterator[None]:
    """No shadow page is freed meanwhile: who flushes the TLBs before has to wait, as for a vCPU that runs its
    guest (walk_shadow_page_lockless_begin, _end)."""
    vcpu.mode = VcpuMode.READING_SHADOW_PAGE_TABLES
    try:
        yield
    finally:
        leave_guest_mode(vcpu)
