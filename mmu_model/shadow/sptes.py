"""Single sptes of the shadow MMU: set, updated, cleared, found again by the frame that they map (mmu.c)."""

from mmu_model.hardware.types import Gfn
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.kvm.page import (
    KvmMmuPage,
    kvm_mmu_page_get_gfn,
    kvm_mmu_page_set_translation,
    sptep_to_sp,
)
from mmu_model.kvm.rmap import RmapHead, pte_list, pte_list_add, pte_list_clear, pte_list_remove
from mmu_model.kvm.split_spte import set_spte, update_clear_spte
from mmu_model.kvm.spte import PT_WRITABLE_MASK, is_shadow_present_pte, is_writable_pte
from mmu_model.kvm.task import Steps, finish
from mmu_model.kvm.types import Sptep, spte_index
from mmu_model.kvm.vm import Kvm

RMAP_RECYCLE_THRESHOLD = 1000


def mmu_spte_set(kvm: Kvm, sptep: Sptep, spte: int) -> None:
    """Make an spte that is not present."""
    if kvm.host.x86_64:
        kvm.host.write(sptep, spte)
    else:
        finish(set_spte(kvm.host, sptep, spte))


def replace_spte(kvm: Kvm, sptep: Sptep, spte: int) -> Steps[None]:
    """Make a present spte map another frame: it goes, then it comes back. Who reads it without mmu_lock sees so."""
    host, unused = kvm.host, kvm.kernel.shadow_nonpresent_value
    if not host.x86_64:
        yield from update_clear_spte(host, sptep, unused)
        yield "has cleared the spte"
        yield from set_spte(host, sptep, spte)
        return
    host.write(sptep, unused)
    yield "has cleared the spte"
    host.write(sptep, spte)


def mmu_spte_update(kvm: Kvm, sptep: Sptep, new_spte: int) -> bool:
    """Change an spte that goes on mapping the same frame; whether TLBs must be flushed for it."""
    masks, old_spte = kvm.masks, kvm.host.read(sptep)
    if not is_shadow_present_pte(old_spte):
        mmu_spte_set(kvm, sptep, new_spte)
        return False
    if kvm.host.x86_64:
        kvm.host.write(sptep, new_spte)
    else:
        finish(update_clear_spte(kvm.host, sptep, new_spte))
    flush = masks.is_mmu_writable(old_spte) and not is_writable_pte(new_spte)
    flush |= masks.is_accessed(old_spte) and not masks.is_accessed(new_spte)
    flush |= masks.is_dirty(old_spte) and not masks.is_dirty(new_spte)
    return flush


def clear_spte(kvm: Kvm, sptep: Sptep) -> None:
    """Make an spte as if it had never been used; what pointed back at it is the caller's business."""
    unused = kvm.kernel.shadow_nonpresent_value
    if kvm.host.x86_64:
        kvm.host.write(sptep, unused)
    else:
        finish(update_clear_spte(kvm.host, sptep, unused))


def drop_spte(kvm: Kvm, sptep: Sptep) -> None:
    """Clear a leaf spte, and take it out of the reverse map."""
    if is_shadow_present_pte(kvm.host.read(sptep)):
        rmap_remove(kvm, sptep)
    clear_spte(kvm, sptep)


def drop_parent_pte(kvm: Kvm, child: KvmMmuPage, sptep: Sptep) -> None:
    """Clear a nonleaf spte, and take it out of its child's `parent_ptes`."""
    pte_list_remove(kvm.host, child.parent_ptes, sptep)
    clear_spte(kvm, sptep)


def rmap_add(kvm: Kvm, slot: KvmMemorySlot, sptep: Sptep, gfn: Gfn, access: int) -> None:
    """Note that a leaf spte now maps a frame; if too many do already, all of them go."""
    sp = sptep_to_sp(kvm.host, sptep)
    kvm_mmu_page_set_translation(sp, spte_index(sptep), gfn, access)
    head = slot.gfn_to_rmap(gfn, sp.role.level)
    if pte_list_add(kvm.host, head, sptep) > RMAP_RECYCLE_THRESHOLD:
        zap_all_rmap_sptes(kvm, head)
        kvm.flush_remote_tlbs()


def rmap_remove(kvm: Kvm, sptep: Sptep) -> None:
    """A leaf spte maps its frame no longer: which one, its page knows."""
    sp = sptep_to_sp(kvm.host, sptep)
    gfn = kvm_mmu_page_get_gfn(sp, spte_index(sptep))
    slot = kvm.slots_for_role(sp.role).find(gfn)
    if slot is not None:
        pte_list_remove(kvm.host, slot.gfn_to_rmap(gfn, sp.role.level), sptep)


def zap_all_rmap_sptes(kvm: Kvm, head: RmapHead) -> bool:
    """Clear every spte of a list; whether there was one."""
    sptes = pte_list(kvm.host, head)
    for sptep in sptes:
        clear_spte(kvm, sptep)
    pte_list_clear(kvm.host, head)
    return bool(sptes)


def rmap_write_protect(kvm: Kvm, head: RmapHead, *, pt_protect: bool) -> bool:
    """Take W from every spte of a list; whether TLBs must be flushed.

    With `pt_protect` for the sake of a shadowed table: then no fault may give W back by itself either.
    """
    flush, masks = False, kvm.masks
    for sptep in pte_list(kvm.host, head):
        spte = kvm.host.read(sptep)
        if not is_writable_pte(spte) and not (pt_protect and masks.is_mmu_writable(spte)):
            continue
        protected = spte & ~PT_WRITABLE_MASK
        flush |= mmu_spte_update(kvm, sptep, protected & ~masks.mmu_writable if pt_protect else protected)
    return flush
