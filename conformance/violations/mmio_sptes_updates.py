"""Wrong models: MMIO sptes while the memslots change."""

from copy import deepcopy
from typing import Any

from conformance.broken import BrokenModel
from conformance.violations.mmio_sptes import FLAG, SECTION, stored
from mmuspec.violations import violates


@violates(f"{SECTION}/in-progress/bit-63-during-update")
def the_flag_goes_before_those_who_use_the_old_slots(model: BrokenModel) -> None:
    """The update is said to be over as soon as the new slots are in place."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, slots: Any, old: Any, new: Any, flags: Any = None) -> Any:
            synchronize = kvm.srcu.synchronize
            kvm.srcu.synchronize = lambda: iter(())
            try:
                yield from original(kvm, slots, old, new, flags)
            finally:
                kvm.srcu.synchronize = synchronize
            yield from synchronize()

        return wrong

    model.wrap("kvm.memory_region.kvm_swap_active_memslots", wrap)


@violates(f"{SECTION}/in-progress/bit-63-during-update")
def updates_are_not_flagged(model: BrokenModel) -> None:
    """The generation just moves on."""
    model.replace("kvm.memory_region.KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS", 0)


@violates(f"{SECTION}/in-progress/bit-63-during-update")
def the_generation_is_incremented_twice(model: BrokenModel) -> None:
    """As the document has it: once when the new slots are in place, and again when the old are given up."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, slots: Any) -> None:
            slots.generation += len(kvm.memslots)
            original(kvm, slots)

        return wrong

    model.wrap("kvm.memory_region.finish_memslots_update", wrap)


@violates(f"{SECTION}/in-progress/no-odd-generation")
def odd_generations_are_not_believed(model: BrokenModel) -> None:
    """As the document has it."""

    def wrap(original: Any) -> Any:
        return lambda vcpu, spte: not vcpu.memslots.generation & 1 and original(vcpu, spte)

    model.wrap("kvm.mmio.check_mmio_spte", wrap)


@violates(f"{SECTION}/in-progress/not-stored")
def the_flag_is_stored(model: BrokenModel) -> None:
    """In the highest of the bits."""
    stored(model, lambda generation: generation | 1 << 18 if generation & FLAG else generation)


@violates(f"{SECTION}/in-progress/always-misses-once", f"{SECTION}/in-progress/examples")
def the_flag_is_not_looked_at(model: BrokenModel) -> None:
    """During an update an spte of the same generation is believed."""

    def wrong(vcpu: Any, spte: int) -> bool:
        low = spte >> 3 & 0xFF | (spte >> 52 & 0x7FF) << 8
        return bool(vcpu.memslots.generation & (1 << 19) - 1 == low)

    model.replace("kvm.mmio.check_mmio_spte", wrong)


@violates(
    f"{SECTION}/in-progress/always-misses-once",
    f"{SECTION}/in-progress/examples",
    f"{SECTION}/race/old-slots-new-generation",
)
def an_spte_of_an_update_has_the_next_generation(model: BrokenModel) -> None:
    """So that it is believed as soon as the update is over."""
    stored(model, lambda generation: generation + 2 if generation & FLAG else generation)


@violates(f"{SECTION}/race/memslots-read-several-times")
def the_memslots_are_read_once(model: BrokenModel) -> None:
    """A fault goes by what they are when it begins."""
    held: dict[Any, Any] = {}

    def change(original: Any) -> Any:
        return property(lambda vcpu: held.get(vcpu) or original.fget(vcpu))

    def wrap(original: Any) -> Any:
        def wrong(vcpu: Any, *fault: Any) -> Any:
            held[vcpu] = deepcopy(vcpu.memslots, {id(slot): slot for slot in vcpu.memslots})
            try:
                return original(vcpu, *fault)
            finally:
                del held[vcpu]

        return wrong

    model.wrap("kvm.vcpu.KvmVcpu.memslots", change)
    model.wrap("kvm.page_fault._do_page_fault", wrap)


@violates(f"{SECTION}/race/old-slots-new-generation")
def faults_begin_again_when_memslots_change(model: BrokenModel) -> None:
    """What was seen before is forgotten."""

    def wrap(original: Any) -> Any:
        return lambda vcpu, fault: bool(vcpu.memslots.generation & FLAG) or original(vcpu, fault)

    model.wrap("kvm.faultin.is_page_fault_stale", wrap)
