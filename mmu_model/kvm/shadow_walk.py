"""Walks of the tables that KVM made, from a vCPU's root down (mmu.c: kvm_shadow_walk_iterator)."""

from collections.abc import Iterator

from mmu_model.hardware.types import Hpa
from mmu_model.kvm.page import root_to_sp
from mmu_model.kvm.spte import SPTE_BASE_ADDR_MASK, is_nonleaf_spte
from mmu_model.kvm.types import PG_LEVEL_4K, PT32E_ROOT_LEVEL, PT64_ROOT_4LEVEL, Kva, Sptep, shadow_index, va
from mmu_model.kvm.vcpu import KvmVcpu


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


def last_spte(vcpu: KvmVcpu, address: int) -> int | None:
    """The lowest spte there is for an address; None without any."""
    sptep = None
    for _, each in for_each_shadow_entry(vcpu, address):
        sptep = each
    return None if sptep is None else vcpu.kvm.host.read(sptep)
