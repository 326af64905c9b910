"""Wrong models: unsync pages with several parents, and tables with several pages."""

from typing import Any

from conformance.broken import BrokenModel
from mmu_model.kvm.rmap import pte_list
from mmu_model.kvm.task import Steps
from mmuspec.violations import violates

SYNCHRONIZED = "unsync/synchronized-on-flush"
MARKED = "unsync_child_bitmap/marks-unsync-entries"
TRIED = "reaction-to-events/unsync/tried"


@violates(SYNCHRONIZED)
def a_lookup_takes_unsync_pages_as_they_are(model: BrokenModel) -> None:
    """A page that is linked once more still maps what the table said before."""

    def wrap(original: Any) -> Any:
        def wrong(vcpu: Any, sp: Any, invalid_list: Any) -> int:
            # a flush has cleared the flag by the time that it gets here
            return 0 if sp.unsync else int(original(vcpu, sp, invalid_list))

        return wrong

    model.wrap("shadow.sync.kvm_sync_page", wrap)


@violates(SYNCHRONIZED)
def a_lookup_clears_the_flag(model: BrokenModel) -> None:
    """A page that was brought in step counts as synchronized, though nothing protects its table."""

    def wrap(original: Any) -> Any:
        def wrong(vcpu: Any, sp: Any, invalid_list: Any) -> int:
            sp.unsync = False
            return int(original(vcpu, sp, invalid_list))

        return wrong

    model.wrap("shadow.sync.kvm_sync_page", wrap)


@violates(MARKED, "unsync_children/counts-unsync-entries")
def only_the_first_parent_is_marked(model: BrokenModel) -> None:
    """Other entries that lead to the page are not."""

    def wrong(kvm: Any, sp: Any) -> Steps[None]:
        for sptep in list(pte_list(kvm.host, sp.parent_ptes))[:1]:
            yield from mark(kvm, sptep)

    mark: Any = None

    def wrap(original: Any) -> Any:
        nonlocal mark
        mark = original.__globals__["mark_unsync"]
        return wrong

    model.wrap("shadow.unsync.mark_parents_unsync", wrap)


@violates(MARKED)
def an_entry_that_is_made_later_is_not_marked(model: BrokenModel) -> None:
    """Only those that led to the page when it became unsync are."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, sptep: int, child: Any) -> None:
            unsync, child.unsync = child.unsync, False
            original(kvm, sptep, child)
            child.unsync = unsync

        return wrong

    model.wrap("shadow.pages.link_shadow_page", wrap)


@violates(TRIED)
def one_page_of_a_table_becomes_unsync(model: BrokenModel) -> None:
    """Another that shadows the same table stays in step by name."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, sp: Any) -> Steps[None]:
            if not any(other.unsync for other in kvm.valid_pages_at(sp.gfn)):
                yield from original(kvm, sp)

        return wrong

    model.wrap("shadow.unsync.unsync_page", wrap)
