"""Wrong models: what counts against a large page."""

from typing import Any

from conformance.broken import BrokenModel
from mmu_model.kvm.task import Steps
from mmuspec.violations import violates

COUNTS = "large-pages/disallow_lpage/write-protection-increments"


@violates("large-pages/disallow_lpage/unaligned-ends-inflated")
def only_the_last_page_of_a_slot_is_excluded(model: BrokenModel) -> None:
    """As the document has it: the end of a slot, and not its beginning."""
    _one_end(model, 0)


@violates("large-pages/disallow_lpage/unaligned-ends-inflated")
def only_the_first_page_of_a_slot_is_excluded(model: BrokenModel) -> None:
    """The beginning of a slot, and not its end."""
    _one_end(model, 1)


def _one_end(model: BrokenModel, end: int) -> None:
    def wrap(original: Any) -> Any:
        def wrong(slot: Any, level: int) -> None:
            original(slot, level)
            counts = slot.disallow_lpage[level - 2]
            if counts:
                counts[(min if end == 0 else max)(counts)] = 0

        return wrong

    model.wrap("kvm.memslot.KvmMemorySlot.exclude_ragged_ends", wrap)


@violates("large-pages/disallow_lpage/arrays-per-slot-and-size")
def reasons_are_counted_for_2_mib_only(model: BrokenModel) -> None:
    """A table does not keep the gigabyte around it from being one page."""

    def wrap(original: Any) -> Any:
        def wrong(slot: Any, gfn: int, count: int) -> None:
            kept = dict(slot.disallow_lpage[1])
            original(slot, gfn, count)
            slot.disallow_lpage[1].clear()
            slot.disallow_lpage[1].update(kept)

        return wrong

    model.wrap("kvm.memslot.KvmMemorySlot.count_disallow_lpage", wrap)


@violates("large-pages/disallow_lpage/arrays-per-slot-and-size")
def a_reason_counts_in_every_slot(model: BrokenModel) -> None:
    """A table in one slot keeps the first pages of all others small."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, sp: Any) -> None:
            original(kvm, sp)
            for slot in kvm.memslots[0]:
                if not slot.base_gfn <= sp.gfn < slot.end_gfn:
                    slot.count_disallow_lpage(slot.base_gfn, 1)

        return wrong

    model.wrap("shadow.accounting.account_shadowed", wrap)


@violates(COUNTS, "large-pages/write-protected/no-overlap", "large-pages/constraints/lead-in")
def tables_are_no_reason(model: BrokenModel) -> None:
    """Shadowing a table does not count."""
    model.replace("kvm.memslot.KvmMemorySlot.count_disallow_lpage", lambda slot, gfn, count: None)


@violates(COUNTS)
def unsync_tables_do_not_count(model: BrokenModel) -> None:
    """As the document has it: what is not write-protected is no reason."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, sp: Any) -> Steps[None]:
            yield from original(kvm, sp)
            kvm.slots_for_role(sp.role).find(sp.gfn).count_disallow_lpage(sp.gfn, -1)

        return wrong

    model.wrap("shadow.unsync.unsync_page", wrap)


@violates(COUNTS)
def a_table_counts_for_ever(model: BrokenModel) -> None:
    """A reason stays when the table is shadowed no more."""

    def wrap(original: Any) -> Any:
        return lambda slot, gfn, count: original(slot, gfn, max(count, 0))

    model.wrap("kvm.memslot.KvmMemorySlot.count_disallow_lpage", wrap)


@violates(COUNTS)
def a_table_counts_once(model: BrokenModel) -> None:
    """However many pages shadow it."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, sp: Any) -> None:
            original(kvm, sp)
            if any(other is not sp and not other.role.direct for other in kvm.valid_pages_at(sp.gfn)):
                kvm.slots_for_role(sp.role).find(sp.gfn).count_disallow_lpage(sp.gfn, -1)

        return wrong

    model.wrap("shadow.accounting.account_shadowed", wrap)


@violates(COUNTS)
def protection_for_logging_counts(model: BrokenModel) -> None:
    """As the document has it: every page that is write-protected is a reason."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, slot: Any, gfns: Any) -> None:
            original(kvm, slot, gfns)
            for gfn in gfns:
                slot.count_disallow_lpage(gfn, 1)

        return wrong

    model.wrap("shadow.slot.kvm_mmu_write_protect_gfns", wrap)
