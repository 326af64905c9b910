"""Wrong models: role.quadrant, role.has_4_byte_gpte."""

from typing import Any

from conformance.broken import BrokenModel
from mmu_model.kvm.types import PT32_ROOT_LEVEL
from mmuspec.violations import violates


def _cpu_role(model: BrokenModel, change: Any) -> None:
    """Change the base role that is worked out from the guest's registers."""

    def wrap(original: Any) -> Any:
        def wrong(registers: Any, **mode: Any) -> Any:
            role = original(registers, **mode)
            return role._replace(base=change(role.base))

        return wrong

    model.wrap("kvm.cpu_role.kvm_calc_cpu_role", wrap)


@violates("role.quadrant/4-byte-gptes-8-byte-sptes", "role.has_4_byte_gpte/guest-pte-size")
def pages_for_4_byte_gptes_do_not_say_so(model: BrokenModel) -> None:
    """The flag stays 0 for a 32-bit guest."""
    _cpu_role(model, lambda base: base.replace(has_4_byte_gpte=0))


@violates("role.quadrant/4-byte-gptes-8-byte-sptes")
def gptes_are_taken_to_have_8_bytes(model: BrokenModel) -> None:
    """The neighbours of a gpte are looked for twice as far away."""

    def change(original: Any) -> Any:
        return lambda gptes, index: original(gptes, 2 * index)

    model.wrap("shadow.gptes.Gptes.read", change)


@violates("role.has_4_byte_gpte/guest-pte-size")
def pages_for_8_byte_gptes_have_the_flag(model: BrokenModel) -> None:
    """Every paging guest's pages have it."""
    _cpu_role(model, lambda base: base.replace(has_4_byte_gpte=int(not base.direct), quadrant=0))


@violates("role.has_4_byte_gpte/guest-pte-size")
def direct_pages_never_have_the_flag(model: BrokenModel) -> None:
    """As the document has it: a page that maps a range is not for gptes of any size."""

    def change(original: Any) -> Any:
        def wrong(*arguments: Any, direct: bool, access: int) -> Any:
            role = original(*arguments, direct=direct, access=access)
            return role.replace(has_4_byte_gpte=0) if direct else role

        return wrong

    model.wrap("kvm.role.child_role", change)


@violates("role.quadrant/several-pages-for-one-table")
def a_table_is_shadowed_by_one_page(model: BrokenModel) -> None:
    """Both halves of a table share a page."""
    model.replace("kvm.role.child_quadrant", lambda index: 0)


@violates("role.quadrant/several-pages-for-one-table", "role.quadrant/second-level-quarters")
def a_directory_is_shadowed_by_two_pages(model: BrokenModel) -> None:
    """The roots of a 32-bit guest forget the upper bit of the quadrant."""
    model.replace("kvm.role.root_quadrant", lambda index: index & 1)


@violates("role.quadrant/first-level-halves")
def the_halves_of_a_table_are_exchanged(model: BrokenModel) -> None:
    """Quadrant 0 is the second half."""
    model.replace("kvm.role.child_quadrant", lambda index: ~index & 1)


@violates("role.quadrant/first-level-halves")
def a_block_has_256_gptes(model: BrokenModel) -> None:
    """The second half of a table is taken to begin at gpte 256."""

    def change(original: Any) -> Any:
        def wrong(gptes: Any, vcpu: Any, sp: Any) -> None:
            original(gptes, vcpu, sp)
            gptes._base -= sp.role.quadrant * 256 * 4

        return wrong

    model.wrap("shadow.gptes.Gptes.__init__", change)


@violates("role.quadrant/second-level-quarters")
def a_directory_entry_becomes_one_spte(model: BrokenModel) -> None:
    """Where an entry of a page directory is written, one spte is dropped."""

    def change(original: Any) -> Any:
        def wrong(sp: Any, gpa: int) -> range:
            written: range = original(sp, gpa)
            return written[:1] if sp.role.level == PT32_ROOT_LEVEL else written

        return wrong

    model.wrap("shadow.track_write.get_written_sptes", change)


@violates("role.quadrant/maps-1gb")
def quadrants_count_down(model: BrokenModel) -> None:
    """The first gigabyte belongs to the last quadrant."""
    model.replace("kvm.role.root_quadrant", lambda index: 3 - index)


@violates("role.quadrant/maps-1gb")
def a_first_level_quadrant_maps_4mib(model: BrokenModel) -> None:
    """Quadrants change only with every other entry of the directory."""
    model.replace("kvm.role.child_quadrant", lambda index: index >> 1 & 1)
