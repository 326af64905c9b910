"""Wrong models: accesses to addresses without memory."""

from dataclasses import replace
from typing import Any

from conformance.broken import BrokenModel, nothing
from mmuspec.violations import violates

R = "reaction-to-events"


@violates(f"{R}/cause-mmio/untranslatable")
def what_is_no_memory_reads_as_zero(model: BrokenModel) -> None:
    """KVM answers by itself; the process is not asked."""

    def wrap(original: Any) -> Any:
        def wrong(*arguments: Any) -> Any:
            try:
                return original(*arguments)
            except Exception:
                return 0

        return wrong

    model.wrap("kvm.emulate.x86_emulate_instruction", wrap)


def _mmio_spte(model: BrokenModel, change: Any) -> None:
    """Change what an spte that remembers an access without memory is made of: frame and access."""

    def wrap(original: Any) -> Any:
        return lambda masks, generation, gfn, access: original(masks, generation, *change(gfn, access))

    model.wrap("kvm.spte.make_mmio_spte", wrap)


@violates(f"{R}/shadow-walk-mmio/spte-caches-info")
def mmio_sptes_keep_no_access(model: BrokenModel) -> None:
    """Only the frame."""
    _mmio_spte(model, lambda gfn, rights: (gfn, 0))


@violates(f"{R}/shadow-walk-mmio/spte-caches-info")
def every_processor_has_a_reserved_bit(model: BrokenModel) -> None:
    """One with 52 address bits, too."""
    model.wrap("kvm.spte.paging_masks", lambda original: lambda maxphyaddr: original(min(maxphyaddr, 51)))


@violates(f"{R}/shadow-walk-mmio/spte-caches-info")
def mmio_sptes_of_ept_have_a_reserved_bit(model: BrokenModel) -> None:
    """As the document has it, with EPT as well."""

    def wrap(original: Any) -> Any:
        def wrong(**processor: Any) -> Any:
            masks = original(**processor)
            return replace(masks, mmio_value=1 << 51 | 1, mmio_mask=1 << 51 | 1)

        return wrong

    model.wrap("kvm.spte.ept_masks", wrap)


@violates(f"{R}/mmio-fault-walk/shadow-page-table")
def the_walk_finds_nothing(model: BrokenModel) -> None:
    """KVM does not look into its own tables."""
    model.replace("kvm.shadow_walk.last_spte_lockless", nothing())


@violates(f"{R}/mmio-fault-cache/cached-and-emulated", f"{R}/host-page-mmio/info-cached")
def the_vcpu_remembers_no_access(model: BrokenModel) -> None:
    """Nothing is put into its cache."""
    model.replace("kvm.mmio.vcpu_cache_mmio_info", lambda vcpu, gva, gfn, rights: None)


@violates(f"{R}/mmio-fault-cache/cached-and-emulated", f"{R}/host-page-mmio/info-cached")
def the_vcpu_remembers_a_guest_physical_address(model: BrokenModel) -> None:
    """Where it should have the linear one."""
    model.wrap(
        "kvm.mmio.vcpu_cache_mmio_info",
        lambda original: lambda vcpu, gva, gfn, rights: original(vcpu, gfn << 12, gfn, rights),
    )
