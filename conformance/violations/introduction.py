"""Wrong models: the introduction. What violates `translation` is told by programs, too."""

from typing import Any

from conformance.broken import BrokenModel, nothing
from mmu_model.hardware import Kind, access
from mmu_model.kvm.process import HostMapping
from mmu_model.kvm.role import ACC_EXEC_MASK, ACC_USER_MASK
from mmuspec.violations import violates

TASK = "introduction/task/task"
CORRECT = "introduction/correctness/indistinguishable-but-for-timing"
SECURE = "introduction/security/no-host-memory-but-its-own"
DIRTY = "introduction/dirty-tracking/writes-are-reported"
FOOTPRINT = "introduction/footprint/little-pinned-memory"
CONTROLS = "introduction/integration/linux-controls-guest-memory"


@violates(TASK, FOOTPRINT)
def the_shadow_mmu_does_it_all(model: BrokenModel) -> None:
    """Guests with nested paging have pages of the shadow MMU, on its lists and in its counts."""

    def change(original: Any) -> Any:
        def wrong(kvm: Any, *arguments: Any) -> Any:
            sp = original(kvm, *arguments)
            sp.tdp_mmu_page = False
            kvm.n_used_mmu_pages += 1
            return sp

        return wrong

    model.wrap("tdp.root.tdp_mmu_alloc_sp", change)


@violates(CORRECT)
def flushes_synchronize_nothing(model: BrokenModel) -> None:
    """A program that changed an entry of a last table, and flushed, goes on with what it had."""
    model.replace("shadow.sync.mmu_sync_children", lambda vcpu, parent: None)


@violates(CORRECT)
def edits_of_upper_tables_go_unnoticed(model: BrokenModel) -> None:
    """A program that changed an entry of another table, and flushed, goes on with what it had."""
    model.replace("shadow.track_write.kvm_mmu_track_write", lambda vcpu, gpa, size: None)


@violates(CORRECT)
def every_access_is_the_kernels(model: BrokenModel) -> None:
    """Faults that users would get do not come."""

    def change(original: Any) -> Any:
        return lambda error_code: access(original(error_code).kind)

    model.wrap("kvm.mmu.paging_access", change)


@violates(CORRECT)
def faults_do_not_say_that_it_was_a_write(model: BrokenModel) -> None:
    """Error codes are other ones."""

    def change(original: Any) -> Any:
        def wrong(error_code: int) -> Any:
            right = original(error_code)
            return access(Kind.READ, user=True) if right.writes and right.user else right

        return wrong

    model.wrap("kvm.mmu.paging_access", change)


def _without_flag(model: BrokenModel, flag: str) -> None:
    def change(original: Any) -> Any:
        return lambda step, *more: original(step, *more) & ~getattr(step, flag)

    model.wrap("kvm.guest_walk._flags", change)


@violates(CORRECT)
def accessed_flags_are_not_set(model: BrokenModel) -> None:
    """KVM walks the guest's tables and leaves A as it is."""
    _without_flag(model, "accessed")


@violates(CORRECT)
def dirty_flags_are_not_set(model: BrokenModel) -> None:
    """KVM walks the guest's tables and leaves D as it is."""
    _without_flag(model, "dirty")


@violates(CORRECT)
def memory_cannot_be_executed(model: BrokenModel) -> None:
    """Under any MMU a program can read and write, and not run."""

    def change(original: Any) -> Any:
        def wrong(kvm: Any, sp: Any, slot: Any, rights: int, *more: Any, **named: Any) -> Any:
            return original(kvm, sp, slot, rights & ~ACC_EXEC_MASK, *more, **named)

        return wrong

    model.wrap("kvm.make_spte.make_spte", change)


@violates(CORRECT)
def shadow_pages_know_efer_nx(model: BrokenModel) -> None:
    """There is one set of shadow pages for each value of EFER.NX, so that nothing is missed."""

    def change(original: Any) -> Any:
        return lambda cpu_role: original(cpu_role).replace(efer_nx=cpu_role.base.efer_nx)

    model.wrap("kvm.cpu_role.shadow_root_role", change)


@violates(CORRECT, "emulating-cr0.wp/smap/smap-on-is-no-case")
def pages_of_users_stay_theirs_under_smap(model: BrokenModel) -> None:
    """A page that the kernel may write to with CR0.WP = 0 still is one of users, if CR4.SMAP is on."""

    def change(original: Any) -> Any:
        def wrong(vcpu: Any, fault: Any, rights: int) -> int:
            given: int = original(vcpu, fault, rights)
            return given | rights & ACC_USER_MASK if vcpu.mmu.cpu_role.ext.has("cr4_smap") else given

        return wrong

    model.wrap("shadow.fetch.effective_access", change)


@violates(SECURE)
def large_pages_reach_beyond_their_slot(model: BrokenModel) -> None:
    """What the host has in one piece the guest gets in one piece."""
    model.replace("kvm.memslot.KvmMemorySlot.largepage_disallowed", lambda slot, gfn, level: 0)


@violates(SECURE)
def memory_stays_when_its_slot_goes(model: BrokenModel) -> None:
    """Nothing that was built for a slot is taken apart."""
    model.replace("kvm.zap_all.kvm_mmu_zap_all_fast", nothing())


@violates(DIRTY)
def logging_begins_with_new_translations(model: BrokenModel) -> None:
    """What the guest could write to before logging it can write to unseen."""
    model.replace("kvm.dirty_log.kvm_mmu_slot_apply_flags", nothing())


@violates(DIRTY)
def a_frame_is_reported_once(model: BrokenModel) -> None:
    """After a reading of the log nothing is write-protected again."""
    model.replace("tdp.protect.kvm_tdp_mmu_clear_dirty_pt_masked", nothing())
    model.replace("shadow.slot.kvm_mmu_write_protect_gfns", lambda kvm, slot, gfns: None)


@violates(DIRTY)
def the_log_stays_empty(model: BrokenModel) -> None:
    """Writes fault and are not noted."""
    model.replace("kvm.guest_memory.mark_page_dirty", lambda slot, gfn: None)


@violates(DIRTY)
def the_processors_log_is_not_read(model: BrokenModel) -> None:
    """What it has written down is forgotten at the exit."""
    model.replace("kvm.vmx.vmx_flush_pml_buffer", lambda vcpu: vcpu.pml and vcpu.pml.take())


@violates(DIRTY)
def shadow_pages_are_not_protected_again(model: BrokenModel) -> None:
    """The TDP MMU's are; what maps for a guest of the guest is not."""
    model.replace("shadow.slot.kvm_mmu_write_protect_gfns", lambda kvm, slot, gfns: None)


@violates(DIRTY)
def what_kvm_writes_is_not_the_guests(model: BrokenModel) -> None:
    """It emulates, and sets flags in the guest's tables, unseen."""

    def change(original: Any) -> Any:
        def wrong(memory: Any, *arguments: Any) -> None:
            memory._logs_dirty = False
            original(memory, *arguments)

        return wrong

    model.wrap("kvm.guest_memory.GuestMemory.write", change)


@violates(CONTROLS)
def sptes_outlive_their_frames(model: BrokenModel) -> None:
    """KVM is told that the host takes memory away, and leaves its sptes."""
    model.replace("shadow.notifier.kvm_unmap_gfn_range", lambda kvm, slot, start, end: False)
    model.replace("tdp.notifier.kvm_tdp_mmu_unmap_gfn_range", nothing(False))


@violates(CONTROLS)
def what_is_shared_is_mapped_writable(model: BrokenModel) -> None:
    """KVM does not ask whether the host lets the process write to a page."""

    def change(original: Any) -> Any:
        def wrong(process: Any, hva: int, *, write: bool) -> Any:
            mapping = original(process, hva, write=False)
            return mapping and HostMapping(mapping.pfn, mapping.level, writable=True)

        return wrong

    model.wrap("kvm.process.Process.fault_in", change)


@violates(CONTROLS, "memory/backing/paged-at-any-time")
def kvm_keeps_the_frames_it_has_seen(model: BrokenModel) -> None:
    """What the host had at an address first is taken to be there for good."""
    seen: dict[tuple[Any, int], Any] = {}

    def change(original: Any) -> Any:
        def wrong(process: Any, hva: int, *, write: bool) -> Any:
            mapping = original(process, hva, write=write)
            return seen.setdefault((process, hva), mapping) if mapping is not None else None

        return wrong

    model.wrap("kvm.process.Process.fault_in", change)
