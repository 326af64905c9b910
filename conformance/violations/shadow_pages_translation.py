"""Wrong models: shadowed_translation, parent_ptes."""

from dataclasses import replace
from typing import Any

from conformance.broken import BrokenModel
from mmu_model.kvm.rmap import KVM_RMAP_MANY, PteListDesc
from mmuspec.violations import violates


def _translation(model: BrokenModel, change: Any) -> None:
    """Change what is noted of an spte: index, gfn and access."""

    def wrap(original: Any) -> Any:
        return lambda sp, index, gfn, access: original(sp, *change(index, gfn, access))

    model.wrap("kvm.page.kvm_mmu_page_set_translation", wrap)


@violates(
    "shadowed_translation/512-entries",
    "shadowed_translation/512-entries~9d68",
    "shadowed_translation/reverse-map-and-access",
    "shadowed_translation/reverse-map-and-access~ab53",
)
def translations_are_noted_one_entry_further_on(model: BrokenModel) -> None:
    """Entry n is about spte n - 1."""
    _translation(model, lambda index, gfn, access: (index + 1 & 511, gfn, access))


@violates("shadowed_translation/512-entries~9d68")
def elements_are_frame_numbers(model: BrokenModel) -> None:
    """As the older document has it: there is no access beside them."""
    _translation(model, lambda index, gfn, access: (index, gfn >> 12, gfn & 0xFFF))


@violates("shadowed_translation/512-entries")
def there_are_1024_entries(model: BrokenModel) -> None:
    """Twice as many as sptes."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, gfn: int, role: Any) -> Any:
            sp = original(kvm, gfn, role)
            if sp.shadowed_translation is not None:
                sp.shadowed_translation *= 2
            return sp

        return wrong

    model.wrap("shadow.pages.kvm_mmu_alloc_shadow_page", wrap)


@violates("shadowed_translation/reverse-map-and-access")
def the_access_is_not_noted(model: BrokenModel) -> None:
    """Only the gfn is."""
    _translation(model, lambda index, gfn, access: (index, gfn, 0))


@violates("shadowed_translation/not-allocated-when-direct", "shadowed_translation/gfn-computable~6351")
def direct_pages_have_the_array(model: BrokenModel) -> None:
    """Every page of the shadow MMU has it."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, gfn: int, role: Any) -> Any:
            sp = original(kvm, gfn, role)
            sp.shadowed_translation = sp.shadowed_translation or [0] * 512
            return sp

        return wrong

    model.wrap("shadow.pages.kvm_mmu_alloc_shadow_page", wrap)


@violates("shadowed_translation/not-allocated-when-direct")
def the_kernels_exchange_the_levels_that_have_the_array(model: BrokenModel) -> None:
    """Pages of levels 4 and 5 have it in 6.12, and not in 6.1."""

    def wrap(original: Any) -> Any:
        def wrong(release: str) -> Any:
            kernel = original(release)
            return replace(kernel, shadowed_translation_max_level=8 - kernel.shadowed_translation_max_level)

        return wrong

    model.wrap("kernels.kernel_named", wrap)


@violates("shadowed_translation/no-access-per-gfn-when-direct")
def every_other_frame_of_a_direct_page_is_read_only(model: BrokenModel) -> None:
    """Its entries grant more or less, as if something were known of the single frame."""

    def wrap(original: Any) -> Any:
        def wrong(kvm: Any, sp: Any, slot: Any, access: int, gfn: int, *rest: Any, **how: Any) -> Any:
            less = access & ~2 if sp.role.direct and gfn & 1 else access
            return original(kvm, sp, slot, less, gfn, *rest, **how)

        return wrong

    model.wrap("kvm.make_spte.make_spte", wrap)


@violates("shadowed_translation/no-access-per-gfn-when-direct")
def parts_of_a_large_page_are_taken_to_have_all_access(model: BrokenModel) -> None:
    """The role's access is not what a direct page's entries shadow."""

    def wrap(original: Any) -> Any:
        return lambda sp, index: 7 if sp.role.direct else original(sp, index)

    model.wrap("kvm.page.kvm_mmu_page_get_access", wrap)


@violates("parent_ptes/reverse-mapping")
def only_the_first_parent_is_noted(model: BrokenModel) -> None:
    """Further entries that lead to a page are not in its list."""

    def wrap(original: Any) -> Any:
        def wrong(host: Any, head: Any, sptep: int) -> int:
            return 0 if head.val else int(original(host, head, sptep))

        return wrong

    model.wrap("kvm.rmap.pte_list_add", wrap)


@violates("parent_ptes/bit-0-single-or-list")
def one_spte_is_a_list_too(model: BrokenModel) -> None:
    """Bit 0 is always 1."""

    def wrap(original: Any) -> Any:
        def wrong(host: Any, head: Any, sptep: int) -> int:
            if not head.val:
                head.val = host.kmalloc(PteListDesc([sptep])) | KVM_RMAP_MANY  # type: ignore[list-item]
                return 0
            return int(original(host, head, sptep))

        return wrong

    model.wrap("kvm.rmap.pte_list_add", wrap)


@violates("parent_ptes/bit-0-single-or-list")
def a_list_of_one_becomes_a_pointer_again(model: BrokenModel) -> None:
    """As the document has it: bit 0 says how many there are."""

    def wrap(original: Any) -> Any:
        def wrong(host: Any, head: Any, sptep: int) -> None:
            original(host, head, sptep)
            if head.val & KVM_RMAP_MANY:
                desc = host.at(head.val & ~KVM_RMAP_MANY)
                if len(desc.sptes) + desc.tail_count == 1:
                    head.val = desc.sptes[0]

        return wrong

    model.wrap("kvm.rmap.pte_list_remove", wrap)
