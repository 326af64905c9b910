"""Wrong models: fast invalidation of MMIO sptes."""

from dataclasses import replace
from typing import Any

from conformance.broken import BrokenModel
from mmuspec.violations import violates

SECTION = "fast-invalidation-of-mmio-sptes"
FLAG = 1 << 63


def stored(model: BrokenModel, change: Any) -> None:
    """Change the generation that an MMIO spte is made with."""

    def wrap(original: Any) -> Any:
        return lambda masks, generation, gfn, access: original(masks, change(generation), gfn, access)

    model.wrap("kvm.spte.make_mmio_spte", wrap)


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


@violates(f"{SECTION}/stale-information/cached-in-leaf-sptes")
def sptes_of_ept_remember_nothing(model: BrokenModel) -> None:
    """There are no misconfigured ones."""

    def wrap(original: Any) -> Any:
        return lambda **named: replace(original(**named), mmio_value=0, mmio_mask=0)

    model.wrap("kvm.spte.ept_masks", wrap)


@violates(f"{SECTION}/stale-information/cached-in-leaf-sptes")
def there_always_is_a_reserved_bit(model: BrokenModel) -> None:
    """Bit 51 is taken for one where it is part of an address."""
    model.wrap("kvm.spte.paging_masks", lambda original: lambda maxphyaddr: original(min(maxphyaddr, 51)))


@violates(f"{SECTION}/stale-information/cached-in-leaf-sptes")
def mmio_sptes_have_all_access(model: BrokenModel) -> None:
    """Whatever the guest's entry grants."""

    def wrap(original: Any) -> Any:
        return lambda masks, generation, gfn, access: original(masks, generation, gfn, 7)

    model.wrap("kvm.spte.make_mmio_spte", wrap)


@violates(
    f"{SECTION}/stale-information/stale-after-memslot-change",
    f"{SECTION}/check/on-every-find",
    f"{SECTION}/check/mismatch-slow-path",
    "reaction-to-events/mmio-fault-generation/checked",
)
def any_mmio_spte_is_believed(model: BrokenModel) -> None:
    """Its generation is not looked at."""
    model.replace("kvm.mmio.check_mmio_spte", lambda vcpu, spte: True)


@violates(f"{SECTION}/check/on-every-find", f"{SECTION}/check/mismatch-slow-path")
def eight_bits_of_the_generation_are_compared(model: BrokenModel) -> None:
    """Those above are stored, and not looked at."""

    def wrap(original: Any) -> Any:
        def wrong(vcpu: Any, spte: int) -> bool:
            current = vcpu.memslots.generation >> 8 & 0x7FF
            return bool(original(vcpu, spte & ~(0x7FF << 52) | current << 52))

        return wrong

    model.wrap("kvm.mmio.check_mmio_spte", wrap)


@violates(f"{SECTION}/check/on-every-find", f"{SECTION}/stale-information/stale-after-memslot-change")
def an_spte_that_was_refused_is_refused_for_ever(model: BrokenModel) -> None:
    """It is not made anew, so that each access goes the long way."""

    def wrap(original: Any) -> Any:
        def wrong(masks: Any, generation: int, gfn: int, access: int) -> int:
            return int(original(masks, first.setdefault(gfn, generation), gfn, access))

        return wrong

    first: dict[int, int] = {}
    model.wrap("kvm.spte.make_mmio_spte", wrap)


@violates(f"{SECTION}/stale-information/stale-after-memslot-change")
def a_change_of_flags_is_none(model: BrokenModel) -> None:
    """What was remembered is good as long as the same slots are there."""
    _flags_do_not_count(model)


def _flags_do_not_count(model: BrokenModel) -> None:
    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, slots: Any, old: Any, new: Any, flags: Any = None) -> Any:
            generation = slots.generation
            yield from original(kvm, slots, old, new, flags)
            if old is new:
                slots.generation = generation

        return wrong

    model.wrap("kvm.memory_region.kvm_swap_active_memslots", wrap)


@violates(f"{SECTION}/stale-information/similar-technique")
def a_change_walks_all_pages(model: BrokenModel) -> None:
    """Whenever slots change, everything is zapped, with mmu_lock held."""

    def wrap(original: Any) -> Any:
        return lambda kvm, generation: original(kvm, 0)

    model.wrap("kvm.memory_region.kvm_mmu_invalidate_mmio_sptes", wrap)


@violates(f"{SECTION}/generation/stored-in-spare-bits")
def mmio_sptes_have_8_bits_of_the_generation(model: BrokenModel) -> None:
    """The upper bits are not used."""
    stored(model, lambda generation: generation & 0xFF)


@violates(f"{SECTION}/generation/stored-in-spare-bits")
def the_generation_has_bit_11_too(model: BrokenModel) -> None:
    """That bit says of other sptes that they are present."""

    def wrap(original: Any) -> Any:
        def wrong(masks: Any, generation: int, gfn: int, access: int) -> int:
            return int(original(masks, generation, gfn, access)) | (generation >> 19 & 1) << 11

        return wrong

    model.wrap("kvm.spte.make_mmio_spte", wrap)


@violates(f"{SECTION}/generation/global-in-memslots")
def the_generation_grows_with_the_set_of_slots_alone(model: BrokenModel) -> None:
    """Other flags of a slot leave it as it is."""
    _flags_do_not_count(model)


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


@violates(f"{SECTION}/overflow/18-bits-then-zap")
def only_the_generation_changes_when_it_overflows(model: BrokenModel) -> None:
    """The pages stay."""

    def wrong(kvm: Any, generation: int) -> None:
        kvm.mmu_valid_gen ^= not generation & (1 << 19) - 2
        for sp in kvm.active_mmu_pages:
            sp.mmu_valid_gen = kvm.mmu_valid_gen

    model.replace("kvm.memory_region.kvm_mmu_invalidate_mmio_sptes", wrong)


@violates(f"{SECTION}/overflow/18-bits-then-zap")
def smm_overflows_unseen(model: BrokenModel) -> None:
    """Its generations are odd, and never 0."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, generation: int) -> None:
            if not generation & 1:
                original(kvm, generation)

        return wrong

    model.wrap("kvm.memory_region.kvm_mmu_invalidate_mmio_sptes", wrap)
