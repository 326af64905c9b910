"""KVM wrote to guest memory on the guest's behalf: what the shadow pages make of it (mmu.c)."""

from mmu_model.hardware.types import PAGE_SHIFT
from mmu_model.kvm.page import KvmMmuPage, sp_has_gptes, sptep_to_sp
from mmu_model.kvm.shadow_walk import for_each_shadow_entry
from mmu_model.kvm.spte import is_shadow_present_pte
from mmu_model.kvm.types import PG_LEVEL_4K, PT32_ROOT_LEVEL
from mmu_model.kvm.vcpu import KvmVcpu
from mmu_model.kvm.vm import Kvm
from mmu_model.shadow.zap import (
    InvalidList,
    kvm_mmu_commit_zap_page,
    kvm_mmu_prepare_zap_page,
    mmu_page_zap_pte,
    remote_flush_or_zap,
)

WRITE_FLOODING_THRESHOLD = 3

_OFFSET_MASK = (1 << PAGE_SHIFT) - 1


def kvm_mmu_track_write(vcpu: KvmVcpu, gpa: int, size: int) -> None:
    """Drop the sptes that stand for the gptes written; the next fault makes them anew.

    A page whose table is written in odd pieces, or too often, is no table any more: it goes as a whole.
    """
    kvm = vcpu.kvm
    if not kvm.indirect_shadow_pages:
        return
    invalid_list: InvalidList = []
    flush = False
    with kvm.mmu_lock.write:
        for sp in kvm.valid_pages_at(gpa >> PAGE_SHIFT):
            if not sp_has_gptes(sp):
                continue
            if is_misaligned(sp, gpa, size) or detect_write_flooding(sp):
                kvm_mmu_prepare_zap_page(kvm, sp, invalid_list)
                kvm.stat["mmu_flooded"] += 1
                continue
            for index in get_written_sptes(sp, gpa):
                sptep = sp.sptep(index)
                flush |= is_shadow_present_pte(kvm.host.read(sptep))
                mmu_page_zap_pte(kvm, sp, sptep, None)
        remote_flush_or_zap(kvm, invalid_list, flush=flush)


def detect_write_flooding(sp: KvmMmuPage) -> bool:
    """Count a write to a table, and say whether it is one too many; level 1 becomes unsync instead."""
    if sp.role.level == PG_LEVEL_4K:
        return False
    sp.write_flooding_count += 1
    return sp.write_flooding_count >= WRITE_FLOODING_THRESHOLD


def is_misaligned(sp: KvmMmuPage, gpa: int, size: int) -> bool:
    """Whether a write is not to (a part of) one gpte; a single byte at its beginning is forgiven."""
    pte_size = 4 if sp.role.has_4_byte_gpte else 8
    offset = gpa & _OFFSET_MASK
    if size == 1 and not offset & pte_size - 1:
        return False
    crosses = (offset ^ offset + size - 1) & ~(pte_size - 1)
    return bool(crosses) or size < 4


def get_written_sptes(sp: KvmMmuPage, gpa: int) -> range:
    """The indices of the sptes that stand for the gpte at `gpa`; none if it is in another quadrant.

    A 4-byte entry of a page directory maps 4 MiB: two sptes.
    """
    offset, count = gpa & _OFFSET_MASK, 1
    if sp.role.has_4_byte_gpte:
        offset <<= 1
        if sp.role.level == PT32_ROOT_LEVEL:
            offset = (offset & ~7) << 1
            count = 2
        if offset >> PAGE_SHIFT != sp.role.quadrant:
            return range(0)
        offset &= _OFFSET_MASK
    return range(offset >> 3, (offset >> 3) + count)


def shadow_page_table_clear_flood(vcpu: KvmVcpu, address: int) -> None:
    """The tables that translate an address are in use as such."""
    for _, sptep in for_each_shadow_entry(vcpu, address):
        sptep_to_sp(vcpu.kvm.host, sptep).write_flooding_count = 0


def unprotect_gfn(kvm: Kvm, gfn: int) -> bool:
    """Zap every page that shadows a table at the frame, so that the guest may write; was there one?"""
    invalid_list: InvalidList = []
    for sp in kvm.valid_pages_at(gfn):
        if sp_has_gptes(sp):
            kvm_mmu_prepare_zap_page(kvm, sp, invalid_list)
    found = bool(invalid_list)
    kvm_mmu_commit_zap_page(kvm, invalid_list)
    return found
