"""Wrong models: what KVM leaves to the processor, and what it does without mmu_lock."""

from typing import Any

from conformance.broken import BrokenModel, nothing
from mmu_model.kvm.spte import SPTE_BASE_ADDR_MASK
from mmuspec.violations import violates

UNSHADOW = "reaction-to-events/emulate-failed/unshadow"
FAST = "reaction-to-events/fast-page-fault/present-and-write"


@violates(UNSHADOW)
def what_cannot_be_emulated_is_the_end(model: BrokenModel) -> None:
    """The process is told at once."""
    model.replace("kvm.retry.retries_after_failure", lambda vcpu, emulation: False)


@violates(UNSHADOW)
def the_guest_tries_again_with_the_page_in_place(model: BrokenModel) -> None:
    """Nothing is unshadowed."""
    model.replace("shadow.track_write.unprotect_gfn", lambda kvm, gfn: True)


@violates(UNSHADOW)
def pages_are_unshadowed_for_accesses_that_need_them(model: BrokenModel) -> None:
    """Nobody looks whether the table translates the access to itself, nor whether it was tried before."""
    model.replace(
        "kvm.retry.EmulationType.write_pf_to_sp",
        property(lambda emulation: False, lambda emulation, value: None),
    )
    model.replace("kvm.retry.was_retried", lambda vcpu, address: False)


@violates(UNSHADOW)
def nested_guests_try_again_too(model: BrokenModel) -> None:
    """As if KVM shadowed what they write to for their own sake."""
    model.replace(
        "kvm.retry.EmulationType.allow_retry_pf",
        property(lambda emulation: True, lambda emulation, value: None),
    )


@violates(UNSHADOW)
def whatever_writes_to_tables_is_emulated(model: BrokenModel) -> None:
    """Instructions that nobody edits page tables with, as well."""
    model.replace("kvm.retry.retries_instead", lambda vcpu, emulation: False)


def _fast(model: BrokenModel, rule: Any) -> None:
    model.replace("kvm.fast_page_fault.page_fault_can_be_fast", rule)


@violates(FAST)
def no_fault_is_fast(model: BrokenModel) -> None:
    """All need mmu_lock."""
    _fast(model, lambda vcpu, fault: False)


@violates(FAST)
def only_writes_to_what_is_present_are_fast(model: BrokenModel) -> None:
    """As the document has it, without accessed flags, too."""
    _fast(model, lambda vcpu, fault: fault.present and fault.write)


@violates(FAST)
def only_what_is_absent_is_fast(model: BrokenModel) -> None:
    """P has to be clear."""
    _fast(model, lambda vcpu, fault: not fault.present)


@violates(FAST)
def writes_to_tables_are_fast(model: BrokenModel) -> None:
    """Whatever W was taken for, it comes back."""
    model.replace("kvm.spte.SpteMasks.is_mmu_writable", lambda masks, spte: True)


@violates(FAST)
def fast_faults_go_unlogged(model: BrokenModel) -> None:
    """W comes back, and the log does not have the write."""

    def wrong(vcpu: Any, fault: Any, sptep: int, old_spte: int, new_spte: int) -> Any:
        yield "exchanges the spte without the lock"
        return vcpu.kvm.host.compare_exchange(sptep, old_spte, new_spte)

    model.replace("kvm.fast_page_fault.fast_pf_fix_direct_spte", wrong)


@violates("reaction-to-events/notifier-drop/translations")
def replaced_pages_may_be_written_to(model: BrokenModel) -> None:
    """An spte that gets another frame keeps its rights."""
    model.replace(
        "kvm.spte.SpteMasks.changed_pte", lambda masks, spte, pfn: spte & ~SPTE_BASE_ADDR_MASK | pfn << 12
    )


@violates("reaction-to-events/notifier-drop/translations")
def no_kernel_is_told_by_which_page(model: BrokenModel) -> None:
    """6.1 as 6.12."""
    model.replace("kvm.notifier.change_pte", nothing())
