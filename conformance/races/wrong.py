"""Wrong models, each of which loses a race: a lock that is missing, a plain store, a flag set too late."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from conformance import races
from conformance.broken import BrokenModel, nothing
from mmu_model.kernels import KERNELS
from mmu_model.kvm.page import sp_has_gptes
from mmu_model.kvm.requests import flush_remote_tlbs
from mmu_model.kvm.task import Steps
from mmu_model.kvm.vcpu import KVM_REQ_MMU_FREE_OBSOLETE_ROOTS, VcpuMode
from mmu_model.schedule import Race
from mmu_model.shadow.unsync import unsync_page
from mmu_model.tdp.root import new_root


@dataclass(frozen=True)
class Wrong:
    """A wrong model, the race that it loses, how that shows, and on which kernels.

    A root is made with mmu_lock held for write on 6.1, which makes up for what is missing there.
    """

    race: Callable[[str], Race]
    breaks: Callable[[BrokenModel], None]
    shows: str
    kernels: tuple[str, ...] = tuple(KERNELS)


def plain_store(model: BrokenModel) -> None:
    """A table or leaf is stored without a look at what is there now."""

    def wrong(host: Any, sptep: int, expected: int, value: int) -> bool:
        host.write(sptep, value)
        return True

    model.replace("kvm.host.Host.compare_exchange", wrong)


def removed_tables_stay_open(model: BrokenModel) -> None:
    """The sptes of a table that was unlinked are read and not frozen."""

    def wrong(kvm: Any, sptep: int) -> Steps[int]:
        yield from ()
        return int(kvm.host.read(sptep))

    model.replace("tdp.changed._freeze_shared", wrong)
    model.replace("tdp.changed._freeze_nonpresent", lambda kvm, sptep: None)


def freed_without_grace_period(model: BrokenModel) -> None:
    """A table is freed although somebody may be walking it."""
    model.replace("kvm.rcu.Rcu.call", lambda rcu, callback: callback())


def sequence_is_ignored(model: BrokenModel) -> None:
    """A fault only looks whether the host is changing the mapping just now."""
    model.replace(
        "kvm.faultin.mmu_invalidate_retry_gfn", lambda kvm, mmu_seq: bool(kvm.mmu_invalidate_in_progress)
    )


def invalidation_under_way_is_ignored(model: BrokenModel) -> None:
    """A fault only looks whether a change of the mapping was finished meanwhile."""
    model.replace(
        "kvm.faultin.mmu_invalidate_retry_gfn", lambda kvm, mmu_seq: kvm.mmu_invalidate_seq != mmu_seq
    )


def sequence_is_taken_too_late(model: BrokenModel) -> None:
    """A fault remembers the sequence number after it has looked for the frame."""

    def change(original: Any) -> Any:
        def wrong(vcpu: Any, fault: Any, access: int) -> Any:
            result = yield from original(vcpu, fault, access)
            yield "remembers the sequence number"
            fault.mmu_seq = vcpu.kvm.mmu_invalidate_seq
            return result

        return wrong

    model.wrap("kvm.faultin.faultin_pfn", change)


def dirty_before_writable(model: BrokenModel) -> None:
    """A fast page fault notes the write first, and makes the spte writable then."""

    def wrong(vcpu: Any, fault: Any, sptep: int, old_spte: int, new_spte: int) -> Any:
        fault.slot.dirty_bitmap.add(fault.gfn)
        yield "has noted the write"
        return vcpu.kvm.host.compare_exchange(sptep, old_spte, new_spte)

    model.replace("kvm.fast_page_fault.fast_pf_fix_direct_spte", wrong)


def no_bits_are_volatile(model: BrokenModel) -> None:
    """Under the write lock an spte is stored as it was read, whatever the processor did meanwhile."""
    model.replace("kvm.spte.SpteMasks.has_volatile_bits", lambda masks, spte: False)


def nobody_looks_again(model: BrokenModel) -> None:
    """Who finds no root makes one, without a look at what others made before it got the lock."""

    def wrong(kvm: Any, role: Any) -> Any:
        yield from kvm.tdp_mmu_pages_lock.wait()
        with kvm.tdp_mmu_pages_lock:
            return new_root(kvm, role)

    model.replace("tdp.root._find_or_make_root", wrong)


def roots_are_listed_without_the_lock(model: BrokenModel) -> None:
    """Between the last look and the new root others may come: tdp_mmu_pages_lock is not taken."""

    def wrong(kvm: Any, role: Any) -> Any:
        for root in kvm.tdp_mmu_roots:
            if root.role == role:
                root.tdp_mmu_root_count += 1
                return root
        yield "makes a root"
        return new_root(kvm, role)

    model.replace("tdp.root._find_or_make_root", wrong)


def references_are_taken_in_two_steps(model: BrokenModel) -> None:
    """The count is read, and then written: no atomic operation."""

    def wrong(root: Any) -> Any:
        count = root.tdp_mmu_root_count
        yield "has read the count"
        if not count:
            return False
        root.tdp_mmu_root_count = count + 1
        return True

    model.replace("tdp.root.kvm_tdp_mmu_get_root", wrong)


def references_are_dropped_in_two_steps(model: BrokenModel) -> None:
    """The count is read, and then written: no atomic operation."""

    def wrong(root: Any) -> Any:
        count = root.tdp_mmu_root_count
        yield "has read the count"
        root.tdp_mmu_root_count = count - 1
        return count == 1

    model.replace("tdp.root._dec_and_test", wrong)


def references_to_dead_roots_are_taken(model: BrokenModel) -> None:
    """A root whose last reference is gone gets another one."""

    def wrong(root: Any) -> Any:
        yield "takes a reference to a root"
        root.tdp_mmu_root_count += 1
        return True

    model.replace("tdp.root.kvm_tdp_mmu_get_root", wrong)


def vcpus_are_told_too_early(model: BrokenModel) -> None:
    """The request to let go of obsolete roots is made before there are any."""

    def change(original: Any) -> Any:
        def wrong(kvm: Any) -> Any:
            kvm.make_all_cpus_request(KVM_REQ_MMU_FREE_OBSOLETE_ROOTS)
            yield "has made the request"
            tell, kvm.make_all_cpus_request = kvm.make_all_cpus_request, lambda request: None
            try:
                yield from original(kvm)
            finally:
                kvm.make_all_cpus_request = tell

        return wrong

    model.wrap("kvm.zap_all.kvm_mmu_zap_all_fast", change)


def stale_roots_are_used(model: BrokenModel) -> None:
    """A fault does not look again, under the lock, whether its root may still be used."""
    model.replace("kvm.faultin.is_page_fault_stale", lambda vcpu, fault: False)


def readers_of_the_slots_are_not_waited_for(model: BrokenModel) -> None:
    """A new set of memslots gets its generation while vCPUs still look at the old set."""

    def wrong(rcu: Any) -> Any:
        yield "waits for nobody"

    model.replace("kvm.rcu.Rcu.synchronize", wrong)


def generation_changes_with_the_slots(model: BrokenModel) -> None:
    """There is no bit that an update is in progress: the new generation is there at once."""

    def wrong(kvm: Any, slots: Any, old: Any, new: Any, flags: Any = None) -> Any:
        slots.replace(old, new)
        slots.generation += 2
        yield from kvm.srcu.synchronize()

    model.replace("kvm.memory_region.kvm_swap_active_memslots", wrong)


def requests_are_looked_for_too_early(model: BrokenModel) -> None:
    """A vCPU looks for requests for the last time before it says that it is in the guest."""
    seen: dict[Any, bool] = {}

    def looks(vcpu: Any) -> None:
        seen[vcpu] = bool(vcpu.requests)

    def enters(vcpu: Any) -> bool:
        vcpu.mode = VcpuMode.IN_GUEST_MODE
        return seen[vcpu]

    model.replace("kvm.enter_guest.enter_guest_mode", looks)
    model.replace("kvm.enter_guest.has_exit_request", enters)


def nobody_waits_for_who_was_kicked(model: BrokenModel) -> None:
    """A flush is over as soon as the vCPUs that run are interrupted, before they are outside."""
    model.replace("kvm.requests.wait_for_kicked", nothing())


def vcpus_that_run_are_not_kicked(model: BrokenModel) -> None:
    """They are left to find the request when they leave the guest by themselves."""
    model.replace("kvm.requests.request_needs_ipi", lambda vcpu, wait: False)


def tlbs_are_not_flushed(model: BrokenModel) -> None:
    """What processors remember may be used on."""
    model.replace("kvm.requests.flush_remote_tlbs", nothing())


def the_bitmap_is_cleared_last(model: BrokenModel) -> None:
    """First the sptes, then the bitmap: what was written in between is forgotten."""

    def wrong(kvm: Any, slot: Any, gfns: Any) -> Any:
        yield from kvm.mmu_lock.write.wait()
        with kvm.mmu_lock.write:
            cleared = slot.dirty_bitmap & gfns
            wrprot = not kvm.parameters.pml
            yield from kvm.tdp.kvm_tdp_mmu_clear_dirty_pt_masked(kvm, slot, cleared, wrprot=wrprot)
        yield from flush_remote_tlbs(kvm)
        yield "has flushed"
        cleared |= slot.dirty_bitmap & gfns
        yield "has looked at the bitmap"
        slot.dirty_bitmap -= cleared
        return cleared

    model.replace("kvm.dirty_log._clear", wrong)


def slots_change_while_the_host_does(model: BrokenModel) -> None:
    """New memslots take effect between the beginning and the end of a change of the host's mappings."""
    model.replace("kvm.notifier.wait_for_invalidations", nothing())


def sptes_are_writable_before_the_marks(model: BrokenModel) -> None:
    """Stores in the wrong order: the spte of a table, then what says that the table is unsync."""
    late: dict[Any, Any] = {}

    def later(original: Any) -> Any:
        def wrong(kvm: Any, *what: Any, **how: Any) -> Any:
            if kvm.mmu_lock.write.is_held():
                return (yield from original(kvm, *what, **how))
            late[kvm] = original(kvm, *what, **how)
            return True

        return wrong

    def sooner(original: Any) -> Any:
        def wrong(kvm: Any, *what: Any) -> Any:
            done = yield from original(kvm, *what)
            yield from late.pop(kvm, ())
            return done

        return wrong

    model.wrap("shadow.unsync.mmu_try_to_unsync_pages", later)
    model.wrap("tdp.changed.tdp_mmu_set_spte_atomic", sooner)


def pages_are_marked_without_the_lock(model: BrokenModel) -> None:
    """mmu_unsync_pages_lock is not taken."""

    def wrong(kvm: Any, slot: Any, gfn: int, **how: bool) -> Any:
        for sp in kvm.valid_pages_at(gfn):
            if sp_has_gptes(sp) and not sp.unsync:
                yield from unsync_page(kvm, sp)
        return True

    model.replace("shadow.unsync.mmu_try_to_unsync_pages", wrong)


def nobody_looks_again_at_unsync(model: BrokenModel) -> None:
    """mmu_unsync_pages_lock is taken, and the page marked, whoever had the lock before."""

    def wrong(kvm: Any, slot: Any, gfn: int, **how: bool) -> Any:
        for sp in kvm.valid_pages_at(gfn):
            if sp_has_gptes(sp) and not sp.unsync:
                yield from kvm.mmu_unsync_pages_lock.wait()
                with kvm.mmu_unsync_pages_lock:
                    yield from unsync_page(kvm, sp)
        return True

    model.replace("shadow.unsync.mmu_try_to_unsync_pages", wrong)


WRONG = (
    Wrong(races.two_faults_on_one_gfn, plain_store, "pages_4k is 3, there are 2"),
    Wrong(races.huge_page_against_small, removed_tables_stay_open, "pages_4k is"),
    Wrong(races.huge_page_against_small, freed_without_grace_period, "the table was freed"),
    Wrong(races.fault_against_notifier, sequence_is_ignored, "the process has not"),
    Wrong(races.fault_against_notifier, invalidation_under_way_is_ignored, "the process has not"),
    Wrong(races.fault_against_notifier, sequence_is_taken_too_late, "the process has not"),
    Wrong(races.fast_page_fault_against_log, dirty_before_writable, "the log does not know"),
    Wrong(races.dirty_flag_against_zap, no_bits_are_volatile, "does not know that a frame was written"),
    Wrong(races.two_root_allocations, nobody_looks_again, "2 roots of one role", ("6.12",)),
    Wrong(races.two_root_allocations, roots_are_listed_without_the_lock, "2 roots of one role", ("6.12",)),
    Wrong(races.references_come_and_go, references_are_taken_in_two_steps, "references, one", ("6.12",)),
    Wrong(races.references_come_and_go, references_are_dropped_in_two_steps, "references, one to"),
    Wrong(races.last_reference_against_iteration, references_to_dead_roots_are_taken, "Error"),
    Wrong(races.fast_zap_against_vcpu, vcpus_are_told_too_early, "nobody can go on: vcpu"),
    Wrong(races.fault_against_zap, stale_roots_are_used, "at the end"),
    Wrong(races.mmio_against_new_memory, readers_of_the_slots_are_not_waited_for, "is believed"),
    Wrong(races.mmio_against_new_memory, generation_changes_with_the_slots, "believe"),
    Wrong(races.aged_page_against_notifier, plain_store, "the process has not"),
    Wrong(races.flush_against_entry, requests_are_looked_for_too_early, "not its own any more"),
    Wrong(races.flush_against_entry, nobody_waits_for_who_was_kicked, "not its own any more"),
    Wrong(races.flush_against_entry, vcpus_that_run_are_not_kicked, "not its own any more"),
    Wrong(races.freed_memory_against_guest, nobody_waits_for_who_was_kicked, "not its own any more"),
    Wrong(races.freed_memory_against_guest, vcpus_that_run_are_not_kicked, "not its own any more"),
    Wrong(races.clearing_w_against_write, tlbs_are_not_flushed, "the log does not know"),
    Wrong(races.clearing_w_against_write, the_bitmap_is_cleared_last, "the log does not know"),
    Wrong(races.clearing_d_against_write, tlbs_are_not_flushed, "the log does not know"),
    Wrong(races.clearing_d_against_write, the_bitmap_is_cleared_last, "the log does not know"),
    Wrong(races.dirty_flag_against_aging, no_bits_are_volatile, "forgot that it was written"),
    Wrong(races.slot_against_notifier, slots_change_while_the_host_does, "tried again for ever"),
    Wrong(races.unsync_against_write, sptes_are_writable_before_the_marks, "before the flush"),
    Wrong(races.two_unsyncs_of_one_table, pages_are_marked_without_the_lock, "twice"),
    Wrong(races.two_unsyncs_of_one_table, nobody_looks_again_at_unsync, "twice"),
)
"""All of them; each race is lost to one at least."""
