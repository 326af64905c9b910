"""Wrong models: what KVM write-protects."""

from typing import Any

from conformance.broken import BrokenModel, nothing
from mmu_model.kvm.rmap import RmapHead, pte_list, pte_list_add
from mmuspec.violations import violates

R = "reaction-to-events"


@violates(f"{R}/cause-dirty-logging/write-protected", f"{R}/cause-protected/protected-translation")
def logging_protects_nothing(model: BrokenModel) -> None:
    """What is writable stays so when logging is switched on."""
    model.replace("kvm.dirty_log.kvm_mmu_slot_apply_flags", nothing())


@violates(f"{R}/cause-shadowed-table/write-protected", f"{R}/cause-protected/protected-translation")
def tables_stay_writable_when_they_are_shadowed(model: BrokenModel) -> None:
    """Only sptes made later are protected."""
    model.replace("shadow.accounting.write_protect_gfn", lambda kvm, slot, gfn: False)


@violates(f"{R}/cause-dirty-logging/write-protected")
def large_sptes_of_a_logged_slot_stay_writable(model: BrokenModel) -> None:
    """Only small ones are protected where the shadow MMU maps the slot."""
    model.replace("shadow.slot.ALL_LEVELS", range(1, 2))


@violates(f"{R}/cause-dirty-logging/write-protected")
def logging_is_of_large_pages(model: BrokenModel) -> None:
    """A write to a logged slot gives W back for all that the host maps at once."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, fault: Any) -> None:
            slot, bitmap = fault.slot, fault.slot and fault.slot.dirty_bitmap
            if slot is not None:
                slot.dirty_bitmap = None
            original(kvm, fault)
            if slot is not None:
                slot.dirty_bitmap = bitmap

        return wrong

    model.wrap("kvm.hugepage.kvm_mmu_hugepage_adjust", wrap)


@violates(f"{R}/cause-dirty-logging/write-protected")
def writable_sptes_are_protected_with_a_log_of_modifications_too(model: BrokenModel) -> None:
    """W is taken, and D stays."""

    def wrap(original: Any) -> Any:
        wrprot_slot = original.__globals__["kvm_tdp_mmu_wrprot_slot"]
        return lambda kvm, slot: wrprot_slot(kvm, slot)

    model.wrap("tdp.protect.kvm_tdp_mmu_clear_dirty_slot", wrap)


@violates(f"{R}/cause-shadowed-table/write-protected")
def one_spte_of_a_shadowed_table_is_protected(model: BrokenModel) -> None:
    """Others that map its frame stay writable."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, head: Any, *, pt_protect: bool) -> Any:
            first = RmapHead()
            for sptep in list(pte_list(kvm.host, head))[:1]:
                pte_list_add(kvm.host, first, sptep)
            return original(kvm, first, pt_protect=pt_protect)

        return wrong

    model.wrap("shadow.sptes.rmap_write_protect", wrap)


@violates(f"{R}/cause-shadowed-table/write-protected")
def tables_of_the_last_level_stay_writable(model: BrokenModel) -> None:
    """They can be unsync, so they are not protected when they begin to be shadowed."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, slot: Any, gfn: int) -> Any:
            pages = [sp for sp in kvm.valid_pages_at(gfn) if not sp.role.direct and not sp.unsync]
            return (bool(pages) and all(sp.role.level == 1 for sp in pages)) or original(kvm, slot, gfn)

        return wrong

    model.wrap("shadow.accounting.write_protect_gfn", wrap)


@violates(f"{R}/cause-shadowed-table/write-protected")
def a_page_in_step_again_is_not_protected_again(model: BrokenModel) -> None:
    """A flush synchronizes unsync pages, and leaves their tables to the guest."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, slot: Any, gfn: int) -> Any:
            return any(sp.unsync for sp in kvm.valid_pages_at(gfn)) or original(kvm, slot, gfn)

        return wrong

    model.wrap("shadow.accounting.write_protect_gfn", wrap)
