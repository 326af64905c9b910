"""Wrong models: large pages."""

from dataclasses import replace
from typing import Any

from conformance.broken import BrokenModel
from mmu_model.hardware import Gfn
from mmu_model.kvm.role import ACC_WRITE_MASK
from mmuspec.violations import violates

SLOTS = "large-pages/one-slot/wholly-contained"
CONSTRAINTS = "large-pages/constraints/lead-in"
ALL_SIZES = "large-pages/combinations/all-sizes"


def _host_level(model: BrokenModel, change: Any) -> None:
    """Change the size of page that KVM believes the host to map a frame with."""

    def wrap(original: Any) -> Any:
        return lambda kvm, slot, gfn: change(original(kvm, slot, gfn), gfn)

    model.wrap("kvm.hugepage.host_pfn_mapping_level", wrap)


@violates(ALL_SIZES, "large-pages/combinations/4k-2m-4m-1g")
def sptes_of_1_gib_are_not_made(model: BrokenModel) -> None:
    """2 MiB is the largest."""
    _host_level(model, lambda level, gfn: min(level, 2))


@violates("large-pages/combinations/4k-2m-4m-1g")
def sptes_of_2_mib_are_not_made(model: BrokenModel) -> None:
    """What is not 1 GiB is 4 KiB."""
    _host_level(model, lambda level, gfn: 1 if level == 2 else level)


@violates("large-pages/combinations/4k-2m-4m-1g")
def the_second_half_of_4_mib_is_the_first_again(model: BrokenModel) -> None:
    """A large page of a 32-bit guest is taken to have 2 MiB."""

    def wrap(original: Any) -> Any:
        def wrong(memory: Any, paging: Any, how: Any, address: int) -> Any:
            walker = original(memory, paging, how, address)
            if walker.level == 2 and paging.steps[-1].entry_size == 4:
                walker.gfn = Gfn(walker.gfn & ~512)
            return walker

        return wrong

    model.wrap("kvm.guest_walk.walk_addr", wrap)


@violates("large-pages/combinations/4m-as-two-2m")
def the_second_half_of_4_mib_is_mapped_in_parts(model: BrokenModel) -> None:
    """Only the first half has an spte of its own size."""
    _host_level(model, lambda level, gfn: 1 if gfn & 512 else level)


@violates("large-pages/combinations/4m-as-two-2m")
def both_halves_of_4_mib_are_made_at_once(model: BrokenModel) -> None:
    """A fault on one half maps the other one, too."""

    def wrap(original: Any) -> Any:
        def wrong(vcpu: Any, address: int, *how: Any) -> Any:
            result = original(vcpu, address, *how)
            if vcpu.mmu.cpu_role.base.has_4_byte_gpte:
                original(vcpu, address ^ 1 << 21, *how)
            return result

        return wrong

    model.wrap("kvm.page_fault._do_page_fault", wrap)


@violates("large-pages/combinations/4m-as-two-2m")
def pages_of_4_mib_are_taken_apart_under_nested_paging(model: BrokenModel) -> None:
    """No spte is larger than 2 MiB, so that there are two for it in every MMU."""
    _host_level(model, lambda level, gfn: min(level, 2))


def _dirty_logging_does_not_count(model: BrokenModel) -> None:
    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, fault: Any) -> None:
            slot = fault.slot
            if slot is None:
                original(kvm, fault)
                return
            kept, slot.dirty_bitmap = slot.dirty_bitmap, None
            original(kvm, fault)
            slot.dirty_bitmap = kept

        return wrong

    model.wrap("kvm.hugepage.kvm_mmu_hugepage_adjust", wrap)


@violates(CONSTRAINTS)
def dirty_logging_is_no_reason(model: BrokenModel) -> None:
    """As the document has it, which does not name it."""
    _dirty_logging_does_not_count(model)


@violates(CONSTRAINTS)
def being_out_of_step_is_no_reason(model: BrokenModel) -> None:
    """As the document has it: only the ends of a slot count."""

    def wrap(original: Any) -> Any:
        def wrong(slot: Any, level: int) -> None:
            kept = slot.userspace_addr
            slot.userspace_addr = slot.base_gfn << 12
            original(slot, level)
            slot.userspace_addr = kept

        return wrong

    model.wrap("kvm.memslot.KvmMemorySlot.exclude_ragged_ends", wrap)


@violates(CONSTRAINTS)
def mixed_memory_is_no_reason(model: BrokenModel) -> None:
    """As the document has it, which does not know of private memory."""
    model.replace("kvm.guest_memfd._note_mixed", lambda kvm, slot, start, end: None)


@violates(CONSTRAINTS)
def fetches_get_large_sptes(model: BrokenModel) -> None:
    """As the document has it, which does not name the mitigation."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, fault: Any) -> None:
            fault.nx_huge_page_workaround_enabled = False
            original(kvm, fault)

        return wrong

    model.wrap("kvm.hugepage.kvm_mmu_hugepage_adjust", wrap)
    model.wrap(
        "kvm.make_spte.make_spte",
        lambda original: lambda kvm, *more, **named: _executable(original, kvm, *more, **named),
    )


def _executable(make_spte: Any, kvm: Any, *more: Any, **named: Any) -> Any:
    """An spte that may be executed, whatever its size."""
    kept = kvm.parameters
    kvm.parameters = replace(kept, nx_huge_pages=False)
    try:
        return (yield from make_spte(kvm, *more, **named))
    finally:
        kvm.parameters = kept


@violates("large-pages/host-page/large", ALL_SIZES, CONSTRAINTS)
def the_hosts_pages_are_taken_to_be_large(model: BrokenModel) -> None:
    """How the host maps the memory is not asked."""
    _host_level(model, lambda level, gfn: 3)


@violates("large-pages/guest-pte/at-least-as-large")
def nested_paging_is_limited_too(model: BrokenModel) -> None:
    """Under nested paging sptes are small, as if there were a small page of the guest."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, fault: Any) -> None:
            if fault.is_tdp:
                fault.max_level = 1
            original(kvm, fault)

        return wrong

    model.wrap("kvm.hugepage.kvm_mmu_hugepage_adjust", wrap)


@violates("large-pages/guest-pte/at-least-as-large")
def a_page_of_1_gib_is_mapped_as_2_mib(model: BrokenModel) -> None:
    """With shadow paging the limit is a level below the guest's page."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, fault: Any) -> None:
            if not fault.is_tdp:
                fault.max_level = min(fault.max_level, 2)
            original(kvm, fault)

        return wrong

    model.wrap("kvm.hugepage.kvm_mmu_hugepage_adjust", wrap)


@violates("large-pages/guest-pte/at-least-as-large", ALL_SIZES, CONSTRAINTS)
def sptes_may_be_a_level_above_the_guests_page(model: BrokenModel) -> None:
    """Around a page of 4 KiB the next 2 MiB are mapped, around one of 2 MiB the next GiB."""

    def wrap(original: Any) -> Any:
        def wrong(memory: Any, paging: Any, how: Any, address: int) -> Any:
            walker = original(memory, paging, how, address)
            walker.level = min(walker.level + 1, max(walker.max_level - 1, 2))
            return walker

        return wrong

    model.wrap("kvm.guest_walk.walk_addr", wrap)


@violates("large-pages/write-protected/no-overlap")
def read_only_large_sptes_may_overlap_tables(model: BrokenModel) -> None:
    """As the document has it: the constraint is for writable sptes."""

    granted: list[bool] = []

    def wrap(original: Any) -> Any:
        def wrong(slot: Any, gfn: int, level: int) -> int:
            return 0 if granted and not granted[-1] else int(original(slot, gfn, level))

        return wrong

    def remember(original: Any) -> Any:
        def wrong(vcpu: Any, fault: Any, memory: Any, gw: Any) -> Any:
            granted.append(bool(gw.pte_access & ACC_WRITE_MASK))
            return original(vcpu, fault, memory, gw)

        return wrong

    model.wrap("kvm.memslot.KvmMemorySlot.largepage_disallowed", wrap)
    model.wrap("shadow.fetch.fetch", remember)


@violates(SLOTS, CONSTRAINTS)
def ragged_ends_do_not_count(model: BrokenModel) -> None:
    """A slot starts without any reason against large pages."""
    model.replace("kvm.memslot.KvmMemorySlot.exclude_ragged_ends", lambda slot, level: None)
