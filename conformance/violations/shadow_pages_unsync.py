"""Wrong models: unsync, unsync_children, unsync_child_bitmap, write_flooding_count."""

from typing import Any

from conformance.broken import BrokenModel, nothing
from mmu_model.kvm.task import Steps
from mmuspec.violations import violates


@violates("unsync/may-not-match")
def pages_are_not_marked(model: BrokenModel) -> None:
    """The guest may write to its table, and the page does not say so."""
    model.replace("shadow.unsync.unsync_page", nothing())


def never_unsync(model: BrokenModel) -> None:
    """A frame with a shadowed table is never writable for the guest."""

    def wrong(kvm: Any, slot: Any, gfn: int, **how: bool) -> Steps[bool]:
        yield "looks for shadowed tables"
        return not any(True for _ in kvm.valid_pages_at(gfn) if not _.role.direct)

    model.replace("shadow.unsync.mmu_try_to_unsync_pages", wrong)


@violates(
    "unsync/like-a-stale-tlb", "synchronized-and-unsynchronized-pages/reachable-table/guest-must-invlpg"
)
def writes_to_tables_take_effect_at_once(model: BrokenModel) -> None:
    """Every write to a table is emulated, so that the guest sees it before it flushes."""
    never_unsync(model)


@violates(
    "unsync/synchronized-on-flush",
    "synchronized-and-unsynchronized-pages/guest-events/flush-and-invlpg",
    "synchronized-and-unsynchronized-pages/reachable-table/synchronized-on-invlpg",
)
def invlpg_does_not_reach_kvm(model: BrokenModel) -> None:
    """The sptes stay as they are."""
    model.replace("shadow.invlpg.kvm_mmu_invlpg", lambda vcpu, address: None)


@violates(
    "unsync/synchronized-on-flush",
    "synchronized-and-unsynchronized-pages/guest-events/flush-and-invlpg",
    "synchronized-and-unsynchronized-pages/side-effect/resynchronized-on-flush",
    "reaction-to-events/mov-cr3-sync/newly-reachable",
    "reaction-to-events/mov-cr0-cr4-efer-sync/newly-reachable",
)
def other_flushes_do_not_synchronize(model: BrokenModel) -> None:
    """MOV to CR3 and its like flush the TLB, nothing else."""
    model.replace("shadow.sync.kvm_mmu_sync_roots", nothing())


@violates("unsync/leaf-pages-only", "reaction-to-events/unsync/tried")
def tables_of_any_level_become_unsync(model: BrokenModel) -> None:
    """No frame is write-tracked."""
    model.replace("kvm.page_track.kvm_gfn_is_write_tracked", lambda slot, gfn: False)


@violates("unsync_children/counts-unsync-entries")
def one_unsync_child_is_as_good_as_two(model: BrokenModel) -> None:
    """The count does not go beyond 1."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, sptep: int) -> Steps[None]:
            yield from original(kvm, sptep)
            sp = kvm.host.at(kvm.host.page_private[sptep - 0xFFFF_8880_0000_0000 >> 12])
            sp.unsync_children = min(sp.unsync_children, 1)

        return wrong

    model.wrap("shadow.unsync.mark_unsync", wrap)


@violates("unsync_children/counts-unsync-entries")
def the_count_follows_every_entry(model: BrokenModel) -> None:
    """As the document has it: an entry that goes is counted off at once."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, child: Any, sptep: int) -> None:
            original(kvm, child, sptep)
            parent = kvm.host.at(kvm.host.page_private[sptep - 0xFFFF_8880_0000_0000 >> 12])
            index = sptep >> 3 & 511
            if parent.unsync_child_bitmap >> index & 1:
                parent.unsync_child_bitmap &= ~(1 << index)
                parent.unsync_children -= 1

        return wrong

    model.wrap("shadow.sptes.drop_parent_pte", wrap)


@violates("unsync_child_bitmap/marks-unsync-entries")
def only_the_page_above_is_marked(model: BrokenModel) -> None:
    """What leads to an unsync page indirectly is not."""

    def wrong(kvm: Any, sptep: int) -> Steps[None]:
        yield "marks the page above"
        sp = kvm.host.at(kvm.host.page_private[sptep - 0xFFFF_8880_0000_0000 >> 12])
        bit = 1 << (sptep >> 3 & 511)
        if not sp.unsync_child_bitmap & bit:
            sp.unsync_child_bitmap |= bit
            sp.unsync_children += 1

    model.replace("shadow.unsync.mark_unsync", wrong)


@violates("unsync_child_bitmap/locates-unsync-pages", "unsync_child_bitmap/locates-unsync-pages~689c")
def all_entries_are_searched(model: BrokenModel) -> None:
    """Whatever the bitmap says, every entry is read."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, sp: Any) -> Any:
            for index in range(512):
                kvm.host.read(sp.sptep(index))
            return original(kvm, sp)

        return wrong

    model.wrap("shadow.unsync.mmu_unsync_walk", wrap)


@violates("unsync_child_bitmap/locates-unsync-pages", "unsync_child_bitmap/locates-unsync-pages~689c")
def an_unsync_page_is_not_found(model: BrokenModel) -> None:
    """The search from a root finds nothing."""
    model.replace("shadow.unsync.mmu_unsync_walk", lambda kvm, sp: [])


@violates("write_flooding_count/emulations-of-protected-tables", "reaction-to-events/emulate/instruction")
def upper_tables_are_not_protected(model: BrokenModel) -> None:
    """The guest writes to them without KVM."""
    model.replace("kvm.page_track.kvm_gfn_is_write_tracked", lambda slot, gfn: False)
    model.replace("shadow.accounting.write_protect_gfn", lambda kvm, slot, gfn: False)


@violates("write_flooding_count/leaf-pages-exempt")
def last_level_tables_are_emulated_as_well(model: BrokenModel) -> None:
    """They are never unsync."""
    never_unsync(model)


@violates("write_flooding_count/leaf-pages-exempt")
def upper_tables_are_exempt_too(model: BrokenModel) -> None:
    """No page is dropped for being written to."""
    model.replace("shadow.track_write.detect_write_flooding", lambda sp: False)


@violates("write_flooding_count/counts-emulations-then-unmaps")
def a_fourth_write_is_waited_for(model: BrokenModel) -> None:
    """The limit is 4."""
    model.replace("shadow.track_write.WRITE_FLOODING_THRESHOLD", 4)


@violates("write_flooding_count/counts-emulations-then-unmaps")
def a_second_write_is_too_many(model: BrokenModel) -> None:
    """The limit is 2."""
    model.replace("shadow.track_write.WRITE_FLOODING_THRESHOLD", 2)


@violates("write_flooding_count/counts-emulations-then-unmaps")
def use_does_not_set_the_count_back(model: BrokenModel) -> None:
    """All writes count, since the page was made."""
    stored: dict[int, int] = {}

    def get(sp: Any) -> int:
        return stored.get(id(sp), 0)

    def put(sp: Any, count: int) -> None:
        stored[id(sp)] = max(count, stored.get(id(sp), 0))

    model.replace("kvm.page.KvmMmuPage.write_flooding_count", property(get, put))
