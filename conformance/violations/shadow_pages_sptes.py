"""Wrong models: what sptes stand for."""

from typing import Any

from conformance.broken import BrokenModel
from mmuspec.violations import violates


@violates("shadow-pages/structure/contains-512-sptes")
def leaves_are_marked_as_tables(model: BrokenModel) -> None:
    """The sptes that map small pages do not look like leaves: their page claims to be of level 2."""
    model.wrap("kvm.role.child_level", lambda original: lambda level: max(original(level), 2))


@violates("shadow-pages/structure/may-mix-leaf-and-nonleaf")
def large_sptes_are_not_made(model: BrokenModel) -> None:
    """Every leaf is in a page of level 1."""
    model.replace("kvm.hugepage.host_pfn_mapping_level", lambda kvm, slot, gfn: 1)


@violates("shadow-pages/nonleaf/reaches-leaf-pages")
def nonleaf_sptes_are_read_only(model: BrokenModel) -> None:
    """Rights are given by upper sptes, too."""

    def wrap(original: Any) -> Any:
        return lambda masks, child, **how: original(masks, child, **how) & ~2

    model.wrap("kvm.spte.make_nonleaf_spte", wrap)


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
