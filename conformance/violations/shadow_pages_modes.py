"""Wrong models: the fields of the role that follow from the guest's mode."""

from typing import Any

from conformance.broken import BrokenModel
from mmu_model.hardware.ept import EPTP_ACCESSED_DIRTY
from mmu_model.kvm.guest_walk import gpte_access
from mmuspec.violations import violates


def _child(model: BrokenModel, change: Any) -> None:
    """Change the access that a child page is asked to have."""

    def wrap(original: Any) -> Any:
        def wrong(parent: Any, index: int, *, direct: bool, access: int) -> Any:
            return original(parent, index, direct=direct, access=change(access, direct))

        return wrong

    model.wrap("kvm.role.child_role", wrap)


def _mode(model: BrokenModel, **fields: int) -> None:
    """The mode that is worked out from the guest's registers has these fields, whatever the registers say."""

    def wrap(original: Any) -> Any:
        def wrong(registers: Any, **mode: Any) -> Any:
            role = original(registers, **mode)
            return role._replace(base=role.base.replace(**fields))

        return wrong

    model.wrap("kvm.cpu_role.kvm_calc_cpu_role", wrap)


@violates("role.access/inherited-uwx")
def access_is_not_inherited(model: BrokenModel) -> None:
    """Every page has all access."""
    _child(model, lambda access, direct: 7)


@violates("role.access/inherited-uwx")
def only_the_entry_above_is_inherited(model: BrokenModel) -> None:
    """What levels further up deny does not count."""

    def wrap(original: Any) -> Any:
        def wrong(memory: Any, paging: Any, how: Any, address: int) -> Any:
            walker = original(memory, paging, how, address)
            for level in walker.pt_access:
                if level + 1 in walker.ptes:
                    walker.pt_access[level] = gpte_access(paging, walker.ptes[level + 1])
            return walker

        return wrong

    model.wrap("kvm.guest_walk.walk_addr", wrap)


@violates("role.access/inherited-uwx")
def write_and_user_are_exchanged(model: BrokenModel) -> None:
    """The bits are in the order w, u, x."""
    _child(model, lambda access, direct: access & 1 | (access & 2) << 1 | (access & 4) >> 1)


@violates("role.access/inherited-uwx")
def parts_of_a_large_page_inherit_from_above_only(model: BrokenModel) -> None:
    """The entry of the large page itself does not count."""
    _child(model, lambda access, direct: 7 if direct else access)


@violates("role.access/execute-positive")
def execution_is_counted_as_its_denial(model: BrokenModel) -> None:
    """The bit is 1 where the guest has XD."""
    _child(model, lambda access, direct: access ^ 1)


@violates("role.efer_nx/efer.nx")
def nested_pages_have_nx_set(model: BrokenModel) -> None:
    """The hypervisor's EFER is not looked at."""

    def wrap(original: Any) -> Any:
        return lambda cpu_role, *, level: original(cpu_role, level=level).replace(efer_nx=1)

    model.wrap("kvm.cpu_role.shadow_npt_root_role", wrap)


@violates("role.efer_nx/efer.nx")
def shadow_paging_takes_the_guests_nx(model: BrokenModel) -> None:
    """As the document has it for every page: the value that the guest has in EFER."""

    def wrap(original: Any) -> Any:
        return lambda cpu_role: original(cpu_role).replace(efer_nx=cpu_role.base.efer_nx)

    model.wrap("kvm.cpu_role.shadow_root_role", wrap)


@violates("role.cr0_wp/cr0.wp")
def cr0_wp_is_taken_for_granted(model: BrokenModel) -> None:
    """Every role says that the guest has write protection."""
    _mode(model, cr0_wp=1)


@violates("role.smm/valid-in-smm")
def pages_for_smm_do_not_say_so(model: BrokenModel) -> None:
    """The role is the same inside SMM and outside."""
    _mode(model, smm=0)


@violates("role.smm/valid-in-smm")
def only_roots_for_smm_say_so(model: BrokenModel) -> None:
    """What is below a root is the same inside SMM and outside."""

    def alloc(original: Any) -> Any:
        def wrong(kvm: Any, role: Any, gfn: int, ptep: int | None) -> Any:
            return original(kvm, role if ptep is None else role.replace(smm=0), gfn, ptep)

        return wrong

    def child(original: Any) -> Any:
        return lambda *place, **how: original(*place, **how).replace(smm=0)

    model.wrap("tdp.root.tdp_mmu_alloc_sp", alloc)
    model.wrap("kvm.role.child_role", child)


@violates("role.smm/selects-memslots")
def pages_for_smm_are_built_from_the_usual_slots(model: BrokenModel) -> None:
    """The vCPU looks frames up in the slots of address space 0."""
    model.replace("kvm.vcpu.KvmVcpu.memslots", property(lambda vcpu: vcpu.kvm.memslots[0]))


@violates("role.smm/selects-memslots")
def pages_for_smm_go_back_to_the_usual_slots(model: BrokenModel) -> None:
    """From a page to its slots the role is not asked."""
    model.replace("kvm.vm.Kvm.slots_for_role", lambda kvm, role: kvm.memslots[0])


@violates("role.guest_mode/nested-guest")
def pages_for_a_nested_guest_look_like_others(model: BrokenModel) -> None:
    """guest_mode stays 0."""
    _mode(model, guest_mode=0)


def _npt_root(model: BrokenModel, passthrough: Any) -> None:
    def wrap(original: Any) -> Any:
        def wrong(cpu_role: Any, *, level: int) -> Any:
            return original(cpu_role, level=level).replace(passthrough=int(passthrough(cpu_role, level)))

        return wrong

    model.wrap("kvm.cpu_role.shadow_npt_root_role", wrap)


@violates("role.passthrough/first-entry-points-to-table")
def the_page_below_is_passthrough_too(model: BrokenModel) -> None:
    """The flag is handed down, so that the shadow of the guest's top table counts as none."""

    def wrap(original: Any) -> Any:
        def wrong(parent: Any, *arguments: Any, **named: Any) -> Any:
            return original(parent, *arguments, **named).replace(passthrough=parent.passthrough)

        return wrong

    model.wrap("kvm.role.child_role", wrap)


@violates("role.passthrough/five-over-four-levels")
def passthrough_is_never_set(model: BrokenModel) -> None:
    """A fifth level over four is like any other."""
    _npt_root(model, lambda cpu_role, level: False)


@violates("role.passthrough/five-over-four-levels")
def passthrough_is_set_under_five_levels(model: BrokenModel) -> None:
    """Whatever the hypervisor's tables have."""
    _npt_root(model, lambda cpu_role, level: level == 5)


@violates("role.passthrough/five-over-four-levels~334e")
def passthrough_is_set_under_a_hypervisor_with_five_levels(model: BrokenModel) -> None:
    """As the older document has it: the hypervisor has CR4.LA57 = 1."""
    _npt_root(model, lambda cpu_role, level: level == cpu_role.base.level == 5)


@violates("role.passthrough/five-over-four-levels")
def passthrough_is_set_over_four_levels(model: BrokenModel) -> None:
    """Whatever the host walks."""
    _npt_root(model, lambda cpu_role, level: cpu_role.base.level == 4)


def _root(model: BrokenModel, *, ad_disabled: bool) -> None:
    """Roots that map guest-physical memory are all the same in that field."""

    def wrap(original: Any) -> Any:
        return lambda cpu_role, **more: original(cpu_role, **{**more, "ad_disabled": ad_disabled})

    model.wrap("kvm.cpu_role.tdp_root_role", wrap)


@violates("role.ad_disabled/cannot-use-ad-bits")
def accessed_and_dirty_flags_are_always_there(model: BrokenModel) -> None:
    """EPT has them, whatever the processor."""
    _root(model, ad_disabled=False)


@violates("role.ad_disabled/cannot-use-ad-bits")
def accessed_and_dirty_flags_are_never_there(model: BrokenModel) -> None:
    """No nested paging has them."""
    _root(model, ad_disabled=True)


@violates("role.ad_disabled/cannot-use-ad-bits")
def the_processor_is_told_to_set_flags_that_kvm_does_not_use(model: BrokenModel) -> None:
    """The EPTP enables them always: for MMUs that cannot use them, and for nested guests."""
    model.wrap("kvm.vmx.construct_eptp", lambda original: lambda vcpu: original(vcpu) | EPTP_ACCESSED_DIRTY)


@violates("role.ad_disabled/cannot-use-ad-bits")
def the_processor_is_not_told_to_set_flags(model: BrokenModel) -> None:
    """The EPTP never enables them."""
    model.wrap("kvm.vmx.construct_eptp", lambda original: lambda vcpu: original(vcpu) & ~EPTP_ACCESSED_DIRTY)
