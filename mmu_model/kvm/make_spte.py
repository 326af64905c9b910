"""A leaf spte, from the access that the guest has and what the host allows (spte.c: make_spte)."""

from mmu_model.hardware.types import PAGE_SHIFT, Gfn, Pfn
from mmu_model.kvm.guest_memory import mark_page_dirty
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.role import ACC_EXEC_MASK, ACC_USER_MASK, ACC_WRITE_MASK
from mmu_model.kvm.spte import (
    PT_PAGE_SIZE_MASK,
    PT_WRITABLE_MASK,
    SPTE_MMU_PRESENT_MASK,
    SPTE_TDP_AD_DISABLED,
    SPTE_TDP_AD_WRPROT_ONLY,
    is_last_spte,
    is_writable_pte,
)
from mmu_model.kvm.task import Steps
from mmu_model.kvm.types import PG_LEVEL_4K
from mmu_model.kvm.vm import Kvm


def make_spte(
    kvm: Kvm,
    sp: KvmMmuPage,
    slot: KvmMemorySlot,
    access: int,
    gfn: Gfn,
    pfn: Pfn,
    old_spte: int,
    *,
    prefetch: bool,
    can_unsync: bool,
    host_writable: bool,
) -> Steps[tuple[int, bool]]:
    """The spte, and whether it had to be write-protected for the sake of a shadowed table.

    Parameters
    ----------
    kvm, sp :
        The VM, and the shadow page that will hold the spte.
    slot, gfn, access :
        What the guest asks for: ACC_* bits at the frame of the slot.
    pfn, host_writable :
        The host's frame, and whether the process may write to it.
    old_spte :
        What the spte holds now.
    prefetch :
        Nobody has accessed the page yet.
    can_unsync :
        Whether tables at the frame may become unsync; not while they are being synchronized.

    """
    level, masks = sp.role.level, kvm.masks
    spte = SPTE_MMU_PRESENT_MASK | masks.present | pfn << PAGE_SHIFT
    if masks.memtype and not kvm.host.is_device(pfn):
        spte |= masks.memtype
    accessed, dirty = masks.accessed, masks.dirty
    if sp.role.ad_disabled:
        spte |= SPTE_TDP_AD_DISABLED
        accessed = dirty = 0
    elif kvm.parameters.pml and sp.role.guest_mode:
        spte |= SPTE_TDP_AD_WRPROT_ONLY  # nested guests run without the log
    if not prefetch:
        spte |= accessed
    if level > PG_LEVEL_4K:
        spte |= PT_PAGE_SIZE_MASK
        if kvm.parameters.nx_huge_pages:
            access &= ~ACC_EXEC_MASK
    spte |= masks.x if access & ACC_EXEC_MASK else masks.nx
    if access & ACC_USER_MASK:
        spte |= masks.user
    if host_writable:
        spte |= masks.host_writable
    else:
        access &= ~ACC_WRITE_MASK

    wrprot = False
    if access & ACC_WRITE_MASK:
        # Whether the old one is present at all, KVM does not ask: one of MMIO passes for writable.
        already = is_last_spte(old_spte, level) and is_writable_pte(old_spte)
        wrprot = not already and not (
            yield from kvm.shadow.mmu_try_to_unsync_pages(
                kvm, slot, gfn, can_unsync=can_unsync, prefetch=prefetch
            )
        )
        if not wrprot:
            spte |= PT_WRITABLE_MASK | masks.mmu_writable
            if not already:
                spte |= dirty
    if prefetch:
        spte = masks.mark_for_access_track(spte)
    if spte & PT_WRITABLE_MASK:
        mark_page_dirty(slot, gfn)
    return spte, wrprot
