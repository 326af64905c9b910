"""Wrong models: role.level, role.direct, gfn."""

from typing import Any

from conformance.broken import BrokenModel
from mmuspec.violations import violates


@violates("role.level/level-in-the-hierarchy")
def every_page_has_the_level_of_the_root(model: BrokenModel) -> None:
    """Going down the tables does not change role.level."""
    model.replace("kvm.role.child_level", lambda level: level)


def _misnumber(model: BrokenModel, level: int, claimed: int) -> None:
    """Pages that stand at `level` of the walk say that they are at `claimed`."""

    def change(original: Any) -> Any:
        return lambda parent: claimed if parent == level + 1 else original(parent)

    model.wrap("kvm.role.child_level", change)


@violates("role.level/entry-sizes")
def pages_of_4k_sptes_have_level_2(model: BrokenModel) -> None:
    """Sptes of 4 KiB are in pages of level 2."""
    _misnumber(model, 1, 2)


@violates("role.level/entry-sizes")
def pages_of_2m_sptes_have_level_3(model: BrokenModel) -> None:
    """Sptes of 2 MiB are in pages of level 3."""
    _misnumber(model, 2, 3)


@violates("role.level/entry-sizes")
def pages_of_1g_sptes_have_level_4(model: BrokenModel) -> None:
    """Sptes of 1 GiB are in pages of level 4."""
    _misnumber(model, 3, 4)


@violates("role.level/entry-sizes")
def pages_of_512g_sptes_have_level_5(model: BrokenModel) -> None:
    """The levels above 1 GiB do not go on counting."""
    _misnumber(model, 4, 5)


@violates("role.level/entry-sizes", "role.level/level-in-the-hierarchy")
def a_root_of_five_levels_has_level_4(model: BrokenModel) -> None:
    """The fifth level has no number of its own."""

    def change(original: Any) -> Any:
        def wrong(*arguments: Any, **named: Any) -> Any:
            sp = original(*arguments, **named)
            sp.role = sp.role.replace(level=min(sp.role.level, 4))
            return sp

        return wrong

    model.wrap("tdp.root.tdp_mmu_alloc_sp", change)


@violates(
    "role.direct/set-linear-range",
    "shadowed_translation/gfn-computable",
    "shadowed_translation/gfn-computable~6351",
)
def neighbours_are_mapped_in_reverse(model: BrokenModel) -> None:
    """The frames below a direct page run backwards from its last entry, where KVM maps them in advance."""

    def change(original: Any) -> Any:
        return lambda gfn, index, level: original(gfn, 511 - index, level)

    model.wrap("kvm.page.linear_gfn", change)


@violates("role.direct/set-linear-range", "shadowed_translation/gfn-computable")
def frames_in_a_row_are_exchanged_in_pairs(model: BrokenModel) -> None:
    """Each fault maps the frame beside the one that it is for."""

    def change(original: Any) -> Any:
        def wrong(vcpu: Any, fault: Any, access: int) -> Any:
            result = yield from original(vcpu, fault, access)
            fault.pfn = fault.pfn if fault.pfn is None else fault.pfn ^ 1
            return result

        return wrong

    model.wrap("kvm.faultin.faultin_pfn", change)


@violates("shadowed_translation/gfn-computable", "shadowed_translation/gfn-computable~6351")
def entries_of_every_level_stand_for_one_frame(model: BrokenModel) -> None:
    """What is reckoned from the page's own gfn does not depend on the level."""
    model.replace("kvm.page.linear_gfn", lambda gfn, index, level: gfn + index)


@violates("role.direct/examples")
def without_paging_pages_are_not_direct(model: BrokenModel) -> None:
    """The roots of a guest in real mode are taken to shadow a table."""

    def change(original: Any) -> Any:
        return lambda cpu_role: original(cpu_role).replace(direct=0)

    model.wrap("kvm.cpu_role.shadow_root_role", change)


@violates("role.direct/examples")
def parts_of_a_large_guest_page_are_shadowed_as_a_table(model: BrokenModel) -> None:
    """Below a page that shadows a table there are none but such pages."""

    def change(original: Any) -> Any:
        def wrong(parent: Any, index: int, *, direct: bool, access: int) -> Any:
            return original(parent, index, direct=direct and bool(parent.direct), access=access)

        return wrong

    model.wrap("kvm.role.child_role", change)


@violates("role.direct/examples")
def pages_for_nested_paging_are_not_direct(model: BrokenModel) -> None:
    """Mapping guest-physical addresses does not count as direct."""

    def change(original: Any) -> Any:
        return lambda kvm, role, gfn, ptep: original(kvm, role.replace(direct=0), gfn, ptep)

    model.wrap("tdp.root.tdp_mmu_alloc_sp", change)


@violates("role.direct/range-and-size")
def a_linear_range_starts_one_frame_late(model: BrokenModel) -> None:
    """gfn is the second frame of the range."""
    _shift_gfn(model)


def _shift_gfn(model: BrokenModel) -> None:
    def change(original: Any) -> Any:
        return lambda kvm, role, gfn, ptep: original(kvm, role, gfn + 1, ptep)

    model.wrap("tdp.root.tdp_mmu_alloc_sp", change)


def _halve_range(model: BrokenModel, level: int) -> None:
    """A page of that level is taken to span half of what it does: its gfn is rounded to that."""

    def change(original: Any) -> Any:
        def wrong(gfn: int, at_level: int) -> Any:
            return gfn & -(512**level // 2) if at_level == level + 1 else original(gfn, at_level)

        return wrong

    model.wrap("kvm.types.gfn_round_for_level", change)


@violates("role.direct/range-and-size")
def a_page_of_level_1_spans_1mb(model: BrokenModel) -> None:
    """Not 2 MiB."""
    _halve_range(model, 1)


@violates("role.direct/range-and-size")
def a_page_of_level_2_spans_512mb(model: BrokenModel) -> None:
    """Not 1 GiB."""
    _halve_range(model, 2)


@violates("role.direct/range-and-size")
def a_page_of_level_3_spans_256gb(model: BrokenModel) -> None:
    """Not 512 GiB."""
    _halve_range(model, 3)


@violates("role.direct/range-and-size")
def a_page_of_level_4_spans_128tb(model: BrokenModel) -> None:
    """Not 256 TiB."""
    _halve_range(model, 4)


@violates("gfn/table-or-base-frame")
def the_gfn_of_a_linear_range_is_its_second_frame(model: BrokenModel) -> None:
    """A page that maps a range does not name the base frame."""
    _shift_gfn(model)


@violates("role.direct/clear-guest-page-table", "gfn/table-or-base-frame")
def the_gfn_of_a_shadowed_table_is_the_frame_behind_it(model: BrokenModel) -> None:
    """A page that shadows a table names another frame than the table's."""

    def change(original: Any) -> Any:
        def wrong(kvm: Any, gfn: int, role: Any) -> Any:
            return original(kvm, gfn if role.direct else gfn + 1, role)

        return wrong

    model.wrap("shadow.pages.kvm_mmu_alloc_shadow_page", change)


@violates("role.direct/clear-guest-page-table")
def every_page_is_direct(model: BrokenModel) -> None:
    """Pages that shadow a table are marked as if they mapped a range."""

    def change(original: Any) -> Any:
        def wrong(kvm: Any, gfn: int, role: Any) -> Any:
            sp = original(kvm, gfn, role)
            sp.role = role.replace(direct=1)
            return sp

        return wrong

    model.wrap("shadow.pages.kvm_mmu_alloc_shadow_page", change)


@violates("role.direct/clear-guest-page-table", "gfn/table-or-base-frame")
def a_fifth_level_shadows_a_table_of_its_own(model: BrokenModel) -> None:
    """The root over a 4-level guest counts as the shadow of a table, one frame on, not as passthrough."""

    def change(original: Any) -> Any:
        return lambda cpu_role, *, level: original(cpu_role, level=level).replace(passthrough=0)

    model.wrap("kvm.cpu_role.shadow_npt_root_role", change)
