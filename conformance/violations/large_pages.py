"""Wrong models: large pages."""

from typing import Any

from conformance.broken import BrokenModel
from mmu_model.hardware import Gfn
from mmu_model.kvm.task import Steps
from mmuspec.violations import violates


def _host_level(model: BrokenModel, change: Any) -> None:
    """Change the size of page that KVM believes the host to map a frame with."""

    def wrap(original: Any) -> Any:
        return lambda kvm, slot, gfn: change(original(kvm, slot, gfn), gfn)

    model.wrap("kvm.hugepage.host_pfn_mapping_level", wrap)


@violates("large-pages/combinations/all-sizes", "large-pages/combinations/4k-2m-4m-1g")
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


@violates("large-pages/constraints/lead-in")
def dirty_logging_is_no_reason(model: BrokenModel) -> None:
    """As the document has it, which does not name it."""
    _dirty_logging_does_not_count(model)


@violates("large-pages/host-page/large")
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


@violates("large-pages/write-protected/no-overlap")
def read_only_large_sptes_may_overlap_tables(model: BrokenModel) -> None:
    """As the document has it: the constraint is for writable sptes."""

    def wrap(original: Any) -> Any:
        def wrong(slot: Any, gfn: int, level: int) -> int:
            return 0 if _reading and not _reading[-1].write else int(original(slot, gfn, level))

        return wrong

    _reading: list[Any] = []

    def remember(original: Any) -> Any:
        def wrong(kvm: Any, fault: Any) -> None:
            _reading.append(fault)
            original(kvm, fault)

        return wrong

    model.wrap("kvm.memslot.KvmMemorySlot.largepage_disallowed", wrap)
    model.wrap("kvm.hugepage.kvm_mmu_hugepage_adjust", remember)


@violates("large-pages/one-slot/wholly-contained")
def ragged_ends_do_not_count(model: BrokenModel) -> None:
    """A slot starts without any reason against large pages."""
    model.replace("kvm.memslot.KvmMemorySlot.exclude_ragged_ends", lambda slot, level: None)


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


@violates("large-pages/disallow_lpage/write-protection-increments")
def tables_are_no_reason(model: BrokenModel) -> None:
    """Shadowing a table does not count."""
    model.replace("kvm.memslot.KvmMemorySlot.count_disallow_lpage", lambda slot, gfn, count: None)


@violates("large-pages/disallow_lpage/write-protection-increments")
def unsync_tables_do_not_count(model: BrokenModel) -> None:
    """As the document has it: what is not write-protected is no reason."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, sp: Any) -> Steps[None]:
            yield from original(kvm, sp)
            kvm.slots_for_role(sp.role).find(sp.gfn).count_disallow_lpage(sp.gfn, -1)

        return wrong

    model.wrap("shadow.unsync.unsync_page", wrap)
