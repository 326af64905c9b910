"""Wrong models: the fields of pages that shadow a hypervisor's EPT."""

from typing import Any

from conformance.broken import BrokenModel
from mmu_model.hardware.ept import ExtendedPaging
from mmuspec.violations import violates

AD_DISABLED = "role.ad_disabled/ept-and-shadow-ept"


def _role(model: BrokenModel, **fields: int) -> None:
    """Pages that shadow EPT have these fields, whatever the EPTP says."""

    def wrap(original: Any) -> Any:
        def wrong(**mode: Any) -> Any:
            role = original(**mode)
            return role._replace(base=role.base.replace(**fields))

        return wrong

    model.wrap("kvm.cpu_role.shadow_ept_cpu_role", wrap)


@violates(AD_DISABLED)
def shadow_ept_has_flags_because_the_host_has(model: BrokenModel) -> None:
    """What the hypervisor put into its EPTP does not count."""
    _role(model, ad_disabled=0)


@violates(AD_DISABLED)
def shadow_ept_never_has_flags(model: BrokenModel) -> None:
    """Nor does it if it enabled them."""
    _role(model, ad_disabled=1)


@violates(AD_DISABLED)
def ept_has_flags_on_every_processor(model: BrokenModel) -> None:
    """Pages for guest-physical memory are made as if the processor were a newer one."""

    def wrap(original: Any) -> Any:
        return lambda cpu_role, **more: original(cpu_role, **{**more, "ad_disabled": False})

    model.wrap("kvm.cpu_role.tdp_root_role", wrap)


@violates("role.ad_disabled/cannot-use-ad-bits")
def the_processor_never_marks_entries_of_shadow_ept(model: BrokenModel) -> None:
    """The EPTP that it gets enables the flags for no nested guest, though the field is 0."""
    model.replace("kvm.nested_vmx.nested_ept_ad_enabled", lambda vcpu: False)


@violates("role.guest_mode/nested-guest")
def pages_that_shadow_ept_look_like_others(model: BrokenModel) -> None:
    """guest_mode stays 0 in them."""
    _role(model, guest_mode=0)


@violates("role.access/inherited-uwx")
def the_u_of_ept_is_no_right_to_read(model: BrokenModel) -> None:
    """It is the bit in the place where paging has U, execution in EPT."""

    def wrap(original: Any) -> Any:
        def wrong(paging: Any, rights: int) -> Any:
            access = original(paging, rights)
            return access & 3 | rights & 4 if isinstance(paging, ExtendedPaging) else access

        return wrong

    model.wrap("kvm.guest_walk.acc_bits", wrap)


@violates("role.access/execute-positive")
def execution_in_ept_is_counted_as_its_denial(model: BrokenModel) -> None:
    """As if X were XD."""

    def wrap(original: Any) -> Any:
        def wrong(paging: Any, rights: int) -> Any:
            return original(paging, rights) ^ isinstance(paging, ExtendedPaging)

        return wrong

    model.wrap("kvm.guest_walk.acc_bits", wrap)


@violates("role.efer_nx/efer.nx")
def shadow_ept_has_nx(model: BrokenModel) -> None:
    """As all other pages that the host's processor walks."""
    _role(model, efer_nx=1)


@violates("role.cr0_wp/cr0.wp")
def shadow_ept_has_write_protection(model: BrokenModel) -> None:
    """As other roots for nested paging."""
    _role(model, cr0_wp=1)


@violates("role.passthrough/five-over-four-levels")
def ept_of_four_levels_is_passed_through(model: BrokenModel) -> None:
    """As nested page tables of four levels are on a host that walks five."""

    def wrap(original: Any) -> Any:
        def wrong(**mode: Any) -> Any:
            role = original(**mode)
            return role._replace(base=role.base.replace(passthrough=int(mode["level"] == 4)))

        return wrong

    model.wrap("kvm.cpu_role.shadow_ept_cpu_role", wrap)
