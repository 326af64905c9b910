"""Wrong models: role.smep_andnot_wp, role.smap_andnot_wp."""

from typing import Any

from conformance.broken import BrokenModel
from mmu_model.hardware import CR0_WP
from mmuspec.violations import violates

SMEP, SMAP = "role.smep_andnot_wp/smep-and-not-wp", "role.smap_andnot_wp/smap-and-not-wp"
CR4_SMEP, CR4_SMAP = 1 << 20, 1 << 21


def _mode(model: BrokenModel, change: Any) -> None:
    """Change fields of the role that is worked out from the guest's registers."""

    def wrap(original: Any) -> Any:
        def wrong(registers: Any, **mode: Any) -> Any:
            role = original(registers, **mode)
            return role._replace(base=role.base.replace(**change(registers)))

        return wrong

    model.wrap("kvm.cpu_role.kvm_calc_cpu_role", wrap)


@violates(SMEP)
def smep_never_counts(model: BrokenModel) -> None:
    """The field stays 0."""
    _mode(model, lambda registers: {"smep_andnot_wp": 0})


@violates(SMEP)
def smep_counts_with_write_protection(model: BrokenModel) -> None:
    """CR0.WP makes no difference."""
    _mode(model, lambda registers: {"smep_andnot_wp": int(bool(registers.cr4 & CR4_SMEP))})


@violates(SMAP)
def smap_never_counts(model: BrokenModel) -> None:
    """The field stays 0."""
    _mode(model, lambda registers: {"smap_andnot_wp": 0})


@violates(SMAP)
def smap_counts_with_write_protection(model: BrokenModel) -> None:
    """CR0.WP makes no difference."""
    _mode(model, lambda registers: {"smap_andnot_wp": int(bool(registers.cr4 & CR4_SMAP))})


@violates(SMEP, SMAP)
def smep_and_smap_are_exchanged(model: BrokenModel) -> None:
    """Each field has the other's bit of CR4."""

    def exchanged(registers: Any) -> dict[str, int]:
        without_wp = not registers.cr0 & CR0_WP
        return {
            "smep_andnot_wp": int(without_wp and bool(registers.cr4 & CR4_SMAP)),
            "smap_andnot_wp": int(without_wp and bool(registers.cr4 & CR4_SMEP)),
        }

    _mode(model, exchanged)


@violates(SMEP, SMAP)
def a_change_of_cr4_keeps_the_pages(model: BrokenModel) -> None:
    """Pages for which it is true serve those for which it is not."""
    model.replace("kvm.registers.matters_to_roles", lambda old, new: False)


def _root(model: BrokenModel, path: str, change: Any) -> None:
    """Change the role of roots of one kind, given the mode that they are for."""

    def wrap(original: Any) -> Any:
        def wrong(cpu_role: Any, **how: Any) -> Any:
            return original(cpu_role, **how).replace(**change(cpu_role))

        return wrong

    model.wrap(path, wrap)


@violates(SMEP, SMAP)
def roots_for_nested_paging_have_what_the_guest_has(model: BrokenModel) -> None:
    """As the document has it for every page."""
    fields = ("smep_andnot_wp", "smap_andnot_wp")
    _root(model, "kvm.cpu_role.tdp_root_role", lambda mode: {f: getattr(mode.base, f) for f in fields})


@violates(SMEP, SMAP)
def nested_page_tables_are_for_write_protection(model: BrokenModel) -> None:
    """As the document has it: the hypervisor's CR0.WP counts for what shadows its nested page tables."""
    _root(
        model,
        "kvm.cpu_role.shadow_npt_root_role",
        lambda mode: {"smep_andnot_wp": 0, "smap_andnot_wp": 0},
    )
