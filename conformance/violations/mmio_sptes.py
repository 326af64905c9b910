"""Wrong models: fast invalidation of MMIO sptes."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

from conformance.broken import BrokenModel
from mmuspec.violations import violates

SECTION = "fast-invalidation-of-mmio-sptes"
FLAG = 1 << 63


@violates(
    f"{SECTION}/stale-information/cached-in-leaf-sptes",
    "reaction-to-events/mmio-fault/rsv-bit-and-cached-info",
    "reaction-to-events/shadow-walk-mmio/spte-caches-info",
)
def sptes_remember_nothing(model: BrokenModel) -> None:
    """There are no MMIO sptes."""

    def wrap(original: Any) -> Any:
        return lambda maxphyaddr: replace(original(maxphyaddr), mmio_value=0, mmio_mask=0)

    model.wrap("kvm.spte.paging_masks", wrap)


@violates(
    f"{SECTION}/stale-information/stale-after-memslot-change",
    f"{SECTION}/check/on-every-find",
    f"{SECTION}/check/mismatch-slow-path",
    "reaction-to-events/mmio-fault-generation/checked",
)
def any_mmio_spte_is_believed(model: BrokenModel) -> None:
    """Its generation is not looked at."""
    model.replace("kvm.mmio.check_mmio_spte", lambda vcpu, spte: True)


@violates(f"{SECTION}/stale-information/similar-technique")
def a_change_walks_all_pages(model: BrokenModel) -> None:
    """Whenever slots change, everything is zapped, with mmu_lock held."""

    def wrap(original: Any) -> Any:
        return lambda kvm, generation: original(kvm, 0)

    model.wrap("kvm.memory_region.kvm_mmu_invalidate_mmio_sptes", wrap)


def _stored(model: BrokenModel, change: Any) -> None:
    """Change the generation that an MMIO spte is made with."""

    def wrap(original: Any) -> Any:
        return lambda masks, generation, gfn, access: original(masks, change(generation), gfn, access)

    model.wrap("kvm.spte.make_mmio_spte", wrap)


@violates(f"{SECTION}/generation/stored-in-spare-bits")
def mmio_sptes_have_8_bits_of_the_generation(model: BrokenModel) -> None:
    """The upper bits are not used."""
    _stored(model, lambda generation: generation & 0xFF)


@violates(f"{SECTION}/generation/global-in-memslots")
def the_generation_does_not_grow(model: BrokenModel) -> None:
    """A change of slots leaves it alone."""

    def wrong(kvm: Any, slots: Any) -> None:
        slots.generation &= ~FLAG

    model.replace("kvm.memory_region.finish_memslots_update", wrong)


@violates(f"{SECTION}/generation/global-in-memslots")
def there_is_one_generation_for_all(model: BrokenModel) -> None:
    """As the document has it: SMM's slots take part in the same."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, slots: Any) -> None:
            original(kvm, slots)
            for other in kvm.memslots:
                other.generation = slots.generation

        return wrong

    model.wrap("kvm.memory_region.finish_memslots_update", wrap)


@violates(f"{SECTION}/overflow/18-bits-then-zap")
def eighteen_bits_are_used(model: BrokenModel) -> None:
    """As the document has it."""
    model.replace("kvm.spte.MMIO_SPTE_GEN_MASK", (1 << 18) - 1)


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
    _stored(model, lambda generation: generation | 1 << 18 if generation & FLAG else generation)


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
    _stored(model, lambda generation: generation + 2 if generation & FLAG else generation)


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
