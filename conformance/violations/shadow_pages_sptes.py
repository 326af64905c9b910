"""Wrong models: what sptes stand for."""

from typing import Any

from conformance.broken import BrokenModel
from conformance.violations.reaction_to_events import nested_tables_are_not_walked
from mmu_model.hardware import CR0_PG
from mmuspec.violations import violates


@violates("shadow-pages/structure/contains-512-sptes")
def leaves_are_marked_as_tables(model: BrokenModel) -> None:
    """The sptes that map small pages do not look like leaves: their page claims to be of level 2."""
    model.wrap("kvm.role.child_level", lambda original: lambda level: max(original(level), 2))


@violates("shadow-pages/structure/may-mix-leaf-and-nonleaf")
def large_sptes_are_not_made(model: BrokenModel) -> None:
    """Every leaf is in a page of level 1."""
    model.replace("kvm.hugepage.host_pfn_mapping_level", lambda kvm, slot, gfn: 1)


def _nonleaf(model: BrokenModel, change: Any) -> None:
    """Change what an spte that leads on grants."""

    def wrap(original: Any) -> Any:
        return lambda masks, child, **how: change(masks, original(masks, child, **how))

    model.wrap("kvm.spte.make_nonleaf_spte", wrap)


@violates("shadow-pages/nonleaf/reaches-leaf-pages")
def nonleaf_sptes_are_read_only(model: BrokenModel) -> None:
    """Rights are given by upper sptes, too."""
    _nonleaf(model, lambda masks, spte: spte & ~2)


@violates("shadow-pages/nonleaf/reaches-leaf-pages")
def nonleaf_sptes_of_paging_are_for_the_kernel(model: BrokenModel) -> None:
    """A user is kept out above the leaf."""
    _nonleaf(model, lambda masks, spte: spte & ~4 if masks.nx else spte)


@violates("shadow-pages/nonleaf/reaches-leaf-pages")
def nothing_is_executed_below_nonleaf_sptes(model: BrokenModel) -> None:
    """Execution is denied above the leaf."""
    _nonleaf(model, lambda masks, spte: (spte | masks.nx) & ~masks.x)


def _leaf_holds_the_gfn(model: BrokenModel, applies: Any) -> None:
    def wrap(original: Any) -> Any:
        def wrong(
            kvm: Any, sp: Any, slot: Any, access: int, gfn: int, pfn: int, *rest: Any, **how: Any
        ) -> Any:
            return original(kvm, sp, slot, access, gfn, gfn if applies(sp) else pfn, *rest, **how)

        return wrong

    model.wrap("kvm.make_spte.make_spte", wrap)


@violates(
    "shadow-pages/leaf/encodes-one-or-two-translations",
    "shadow-pages/leaf/lowest-level-of-the-stack",
    "shadow-pages/nonpaging/gpa-to-hpa",
    "shadow-pages/paging/gva-to-gpa-to-hpa",
    "shadow-pages/paging-tdp/gpa-to-hpa",
    "shadow-pages/nested-non-tdp/ngva-to-gpa-to-hpa",
    "shadow-pages/nested-tdp/ngpa-to-gpa-to-hpa",
)
def leaves_leave_the_last_translation_out(model: BrokenModel) -> None:
    """A leaf holds the guest's frame, as if that were the host's."""
    _leaf_holds_the_gfn(model, lambda sp: True)


@violates(
    "shadow-pages/leaf/encodes-one-or-two-translations",
    "shadow-pages/paging/gva-to-gpa-to-hpa",
    "shadow-pages/nested-non-tdp/ngva-to-gpa-to-hpa",
    "shadow-pages/nested-tdp/ngpa-to-gpa-to-hpa",
)
def leaves_leave_the_first_translation_out(model: BrokenModel) -> None:
    """What a table that is shadowed says of the frame does not count: an address stands for itself."""
    nested_tables_are_not_walked(model)


@violates("shadow-pages/leaf/lowest-level-of-the-stack", "shadow-pages/paging-tdp/gpa-to-hpa")
def nested_paging_has_linear_addresses_too(model: BrokenModel) -> None:
    """Whatever the guest's fault was about, KVM also makes an entry for the linear address that it used."""
    used: list[int] = []

    def note(original: Any) -> Any:
        def wrong(processor: Any, address: int, how: Any) -> Any:
            used.append(address)
            return original(processor, address, how)

        return wrong

    def wrap(original: Any) -> Any:
        def wrong(vcpu: Any, *fault: Any) -> Any:
            if vcpu.mmu is vcpu.root_mmu and vcpu.mmu.root_role.direct and vcpu.registers.cr0 & CR0_PG:
                original(vcpu, used[-1], *fault[1:])
            return original(vcpu, *fault)

        return wrong

    model.wrap("hardware.processor.LogicalProcessor.translate", note)
    model.wrap("kvm.page_fault.kvm_mmu_page_fault", wrap)


@violates("shadow-pages/nested-non-tdp-footnote/guest-hypervisor-encodes-ngva-to-gpa")
def pages_for_a_nested_guest_have_the_outer_tables(model: BrokenModel) -> None:
    """KVM goes on shadowing what the hypervisor itself runs on."""

    def wrap(original: Any) -> Any:
        def wrong(vcpu: Any, registers: Any, nested_cr3: int | None) -> None:
            outer = vcpu.registers.cr3
            original(vcpu, registers, nested_cr3)
            if nested_cr3 is None:
                vcpu.root_mmu.guest_pgd = outer

        return wrong

    model.wrap("kvm.nested.enter_nested", wrap)
