"""Leaf sptes of the shadow MMU: the one that a fault needs, and its neighbours in advance (mmu.c)."""

from mmu_model.hardware.types import Gfn, Pfn
from mmu_model.kvm.fault import (
    RET_PF_EMULATE,
    RET_PF_FIXED,
    RET_PF_SPURIOUS,
    RET_PF_WRITE_PROTECTED,
    KvmPageFault,
    RetPf,
)
from mmu_model.kvm.make_spte import make_spte
from mmu_model.kvm.memslot import KVM_MEM_READONLY, KVM_MEMSLOT_INVALID, KvmMemorySlot
from mmu_model.kvm.page import (
    KvmMmuPage,
    kvm_mmu_page_get_gfn,
    kvm_mmu_page_set_translation,
    spte_to_child_sp,
    sptep_to_sp,
)
from mmu_model.kvm.role import ACC_WRITE_MASK
from mmu_model.kvm.spte import is_large_pte, is_shadow_present_pte, make_mmio_spte, spte_to_pfn
from mmu_model.kvm.task import finish
from mmu_model.kvm.types import PG_LEVEL_4K, Sptep, spte_index
from mmu_model.kvm.vcpu import KvmVcpu
from mmu_model.kvm.vm import Kvm
from mmu_model.shadow.gptes import Gptes
from mmu_model.shadow.sptes import drop_parent_pte, drop_spte, mmu_spte_set, mmu_spte_update, rmap_add

PTE_PREFETCH_NUM = 8


def mmu_set_spte(
    vcpu: KvmVcpu, sptep: Sptep, access: int, gfn: Gfn, pfn: Pfn | None, fault: KvmPageFault
) -> RetPf:
    """Make the spte that answers a fault.

    Parameters
    ----------
    vcpu, fault :
        Who faulted, and on what.
    sptep, gfn, access :
        The spte; the frame that it is to map, of its level's size; ACC_* bits that the guest has there.
    pfn :
        The host's frame; None if there is no memory.

    """
    kvm = vcpu.kvm
    if pfn is None or fault.slot is None:
        _make_room(kvm, sptep, None)
        spte = make_mmio_spte(kvm.masks, vcpu.memslots.generation, gfn, access)
        mmu_spte_set(kvm, sptep, spte)
        return RET_PF_EMULATE
    result, wrprot = _set(
        kvm, fault.slot, sptep, access, gfn, pfn, prefetch=fault.prefetch, host_writable=fault.map_writable
    )
    return RET_PF_WRITE_PROTECTED if wrprot and fault.write else result


def _set(
    kvm: Kvm,
    slot: KvmMemorySlot,
    sptep: Sptep,
    access: int,
    gfn: Gfn,
    pfn: Pfn,
    *,
    prefetch: bool,
    host_writable: bool,
) -> tuple[RetPf, bool]:
    """FIXED or SPURIOUS, and whether the spte had to be write-protected."""
    sp = sptep_to_sp(kvm.host, sptep)
    flush, was_rmapped = _make_room(kvm, sptep, pfn)
    old_spte = kvm.host.read(sptep)
    spte, wrprot = finish(
        make_spte(
            kvm,
            sp,
            slot,
            access,
            gfn,
            pfn,
            old_spte,
            prefetch=prefetch,
            can_unsync=True,
            host_writable=host_writable,
        )
    )
    if spte == old_spte:
        return RET_PF_SPURIOUS, wrprot
    flush |= mmu_spte_update(kvm, sptep, spte)
    if flush:
        kvm.flush_remote_tlbs()
    if was_rmapped:
        kvm_mmu_page_set_translation(sp, spte_index(sptep), gfn, access)
    else:
        rmap_add(kvm, slot, sptep, gfn, access)
    return RET_PF_FIXED, wrprot


def _make_room(kvm: Kvm, sptep: Sptep, pfn: Pfn | None) -> tuple[bool, bool]:
    """Take away what may not stay under a leaf for `pfn`: a table, or a leaf for another frame.

    Whether TLBs must be flushed for that, and whether a leaf for this frame is there already.
    """
    spte = kvm.host.read(sptep)
    if not is_shadow_present_pte(spte):
        return False, False
    sp = sptep_to_sp(kvm.host, sptep)
    if sp.role.level > PG_LEVEL_4K and not is_large_pte(spte):
        drop_parent_pte(kvm, spte_to_child_sp(kvm.host, spte), sptep)
        return True, False
    if pfn != spte_to_pfn(spte):
        drop_spte(kvm, sptep)
        return True, False
    return False, True


def pte_prefetch(vcpu: KvmVcpu, sptep: Sptep) -> None:
    """Map the neighbours of a page that was just mapped: the aligned group of eight that it is in."""
    kvm = vcpu.kvm
    sp = sptep_to_sp(kvm.host, sptep)
    if sp.role.level > PG_LEVEL_4K or kvm.mmu_invalidate_in_progress:
        return
    if sp.role.direct:
        if not sp.role.ad_disabled:
            _prefetch_linear(vcpu, sp, spte_index(sptep))
    else:
        _prefetch_gptes(vcpu, sp, spte_index(sptep))


def _group(index: int) -> range:
    first = index & -PTE_PREFETCH_NUM
    return range(first, first + PTE_PREFETCH_NUM)


def _prefetch_linear(vcpu: KvmVcpu, sp: KvmMmuPage, fresh: int) -> None:
    """Frames follow each other, so they are taken in runs; stop at the first run that is not all memory of
    one slot (__direct_pte_prefetch)."""
    read, run = vcpu.kvm.host.read, list[int]()
    for index in [*_group(fresh), None]:
        if index is not None and index != fresh and not is_shadow_present_pte(read(sp.sptep(index))):
            run.append(index)
        elif run:
            if not _prefetch_run(vcpu, sp, run):
                return
            run = []


def _prefetch_run(vcpu: KvmVcpu, sp: KvmMmuPage, run: list[int]) -> bool:
    first, last = (kvm_mmu_page_get_gfn(sp, index) for index in (run[0], run[-1]))
    slot = vcpu.memslots.find(first)
    if slot is None or last >= slot.end_gfn:
        return False
    return all(
        _prefetch_one(vcpu, sp.sptep(index), kvm_mmu_page_get_gfn(sp, index), sp.role.access) for index in run
    )


def _prefetch_gptes(vcpu: KvmVcpu, sp: KvmMmuPage, fresh: int) -> None:
    """What the guest's entries beside say (FNAME(pte_prefetch)); stop at the first that cannot be used."""
    gptes = Gptes(vcpu, sp)
    for index in _group(fresh):
        sptep = sp.sptep(index)
        if index == fresh or is_shadow_present_pte(vcpu.kvm.host.read(sptep)):
            continue
        if not prefetch_gpte(vcpu, sp, index, gptes):
            return


def prefetch_gpte(vcpu: KvmVcpu, sp: KvmMmuPage, index: int, gptes: Gptes | None = None) -> bool:
    """Map what the gpte behind `spt[index]` says now, if it may be used; whether it was."""
    gptes = gptes or Gptes(vcpu, sp)
    gpte = gptes.read(index)
    if gptes.is_unusable(gpte):
        drop_spte(vcpu.kvm, sp.sptep(index))
        return False
    return _prefetch_one(vcpu, sp.sptep(index), gptes.gfn(gpte), gptes.access(gpte))


def _prefetch_one(vcpu: KvmVcpu, sptep: Sptep, gfn: Gfn, access: int) -> bool:
    """Whether it worked: only with memory that the host has at hand, and never in a way that would count as
    a write where writes are logged."""
    slot = vcpu.memslots.find(gfn)
    if slot is None or slot.flags & KVM_MEMSLOT_INVALID:
        return False
    if access & ACC_WRITE_MASK and slot.dirty_bitmap is not None:
        return False
    mapping = vcpu.kvm.process.mapping(slot.hva(gfn))
    if mapping is None or not mapping.writable or slot.flags & KVM_MEM_READONLY:
        return False
    _set(vcpu.kvm, slot, sptep, access, gfn, mapping.pfn, prefetch=True, host_writable=True)
    return True
