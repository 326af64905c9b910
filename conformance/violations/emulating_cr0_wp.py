"""Wrong models: a guest kernel without write protection."""

from dataclasses import replace
from typing import Any

from conformance.broken import BrokenModel
from mmu_model.hardware import CR0_WP, CR4_SMAP, CR4_SMEP, EFER_NXE, Kind, LinearPaging, PageFault, access
from mmu_model.kvm.role import ACC_EXEC_MASK, ACC_USER_MASK, ACC_WRITE_MASK
from mmu_model.kvm.task import finish
from mmu_model.kvm.zap_all import kvm_mmu_zap_all_fast
from mmuspec.violations import violates


def _host_registers(model: BrokenModel, change: Any) -> None:
    """Change what the processor runs a shadowed guest with."""

    def wrap(original: Any) -> Any:
        return lambda guest, root: change(guest, original(guest, root))

    model.wrap("guest_entry.shadow_paging_registers", wrap)


def _root_role(model: BrokenModel, **fields: int) -> None:
    """The roots of shadow paging, and all below them, have these fields whatever the guest's mode."""

    def wrap(original: Any) -> Any:
        return lambda cpu_role: original(cpu_role).replace(**fields)

    model.wrap("kvm.cpu_role.shadow_root_role", wrap)


def _walk_with(model: BrokenModel, change: Any) -> None:
    """KVM's walk of the guest's tables judges by other registers than the guest's."""

    def wrap(original: Any) -> Any:
        def wrong(memory: Any, paging: Any, how: Any, address: int) -> Any:
            return original(memory, LinearPaging(change(paging.registers), paging.pdptes), how, address)

        return wrong

    model.wrap("kvm.guest_walk.walk_addr", wrap)


def _spte_access(model: BrokenModel, change: Any) -> None:
    """Change the access that an spte is made with, given the fault and what the guest's tables grant."""

    def wrap(original: Any) -> Any:
        def wrong(vcpu: Any, fault: Any, pte_access: int) -> int:
            return int(change(vcpu, fault, pte_access, original(vcpu, fault, pte_access)))

        return wrong

    model.wrap("shadow.fetch.effective_access", wrap)


@violates("emulating-cr0.wp/host-keeps-wp/host-wp-is-1")
def the_host_takes_the_guests_wp(model: BrokenModel) -> None:
    """The processor runs with CR0.WP as the guest has it."""
    _host_registers(model, lambda guest, host: replace(host, cr0=host.cr0 & ~CR0_WP | guest.cr0 & CR0_WP))


@violates("emulating-cr0.wp/host-keeps-wp/guest-wp-1-is-no-problem")
def kvm_ignores_the_guests_write_protection(model: BrokenModel) -> None:
    """Every guest is treated as if it had CR0.WP = 0."""
    _walk_with(model, lambda registers: replace(registers, cr0=registers.cr0 & ~CR0_WP))
    model.wrap(
        "kvm.cpu_role.kvm_calc_cpu_role",
        lambda original: (
            lambda registers, **mode: original(replace(registers, cr0=registers.cr0 & ~CR0_WP), **mode)
        ),
    )


@violates("emulating-cr0.wp/host-keeps-wp/guest-wp-1-is-no-problem")
def sptes_are_open_to_users(model: BrokenModel) -> None:
    """U is set whatever the guest's entry says."""
    _spte_access(model, lambda vcpu, fault, granted, made: made | ACC_USER_MASK)


@violates("emulating-cr0.wp/host-keeps-wp/guest-wp-1-is-no-problem")
def sptes_are_not_writable(model: BrokenModel) -> None:
    """W is clear whatever the guest's entry says."""
    _spte_access(model, lambda vcpu, fault, granted, made: made & ~ACC_WRITE_MASK)


@violates("emulating-cr0.wp/host-keeps-wp/host-wp-is-1", "emulating-cr0.wp/smep/efer.nx-forced")
def it_is_so_under_nested_paging_too(model: BrokenModel) -> None:
    """The processor always runs with CR0.WP and EFER.NXE."""

    def wrap(original: Any) -> Any:
        def wrong(processor: Any, registers: Any, *second: Any, **more: Any) -> None:
            forced = replace(registers, cr0=registers.cr0 | CR0_WP, efer=registers.efer | EFER_NXE)
            original(processor, forced, *second, **more)

        return wrong

    model.wrap("hardware.processor.LogicalProcessor.enter_guest", wrap)


@violates("emulating-cr0.wp/host-keeps-wp/guest-wp-0-has-no-spte")
def the_processor_never_protects_from_the_kernel(model: BrokenModel) -> None:
    """CR0.WP has no effect, so that a read-only user entry grants what is wanted."""

    def wrap(original: Any) -> Any:
        def wrong(registers: Any, how: Any, **rights: bool) -> bool:
            return bool(original(replace(registers, cr0=registers.cr0 & ~CR0_WP), how, **rights))

        return wrong

    model.wrap("hardware.permissions.permitted", wrap)


@violates("emulating-cr0.wp/two-sptes/by-fault-type", "emulating-cr0.wp/kernel-write/u0-w1")
def a_kernel_write_leaves_the_page_to_users(model: BrokenModel) -> None:
    """W is added, and U is kept."""
    _spte_access(model, lambda vcpu, fault, granted, made: made | granted & 4)


@violates("emulating-cr0.wp/two-sptes/by-fault-type")
def the_first_fault_decides_for_good(model: BrokenModel) -> None:
    """What the first spte of a page granted all others grant."""
    first: dict[int, int] = {}
    _spte_access(model, lambda vcpu, fault, granted, made: first.setdefault(fault.gfn, made))


@violates("emulating-cr0.wp/read/u1-w0")
def a_read_makes_a_kernel_page_too(model: BrokenModel) -> None:
    """Whoever faults gets the spte of a kernel that writes."""
    _spte_access(model, lambda vcpu, fault, granted, made: made if fault.user else (made | 2) & ~4)


@violates("emulating-cr0.wp/read/u1-w0", "emulating-cr0.wp/two-sptes/by-fault-type")
def a_read_by_a_user_makes_the_page_writable(model: BrokenModel) -> None:
    """U is kept, and W is added."""
    _spte_access(model, lambda vcpu, fault, granted, made: made if fault.write else made | 2)


@violates("emulating-cr0.wp/user-write/page-fault")
def users_write_without_protection_as_well(model: BrokenModel) -> None:
    """CR0.WP = 0 is taken to be for everybody."""

    def wrap(original: Any) -> Any:
        def wrong(memory: Any, paging: Any, how: Any, address: int) -> Any:
            return original(memory, paging, access(Kind.READ, user=True) if how.writes else how, address)

        return wrong

    model.wrap("kvm.guest_walk.walk_addr", wrap)
    _spte_access(model, lambda vcpu, fault, granted, made: made | 2 if fault.write else made)


@violates("emulating-cr0.wp/user-write/page-fault")
def users_faults_say_that_nothing_is_there(model: BrokenModel) -> None:
    """The guest gets a fault for its user's write, with P = 0."""

    def wrap(original: Any) -> Any:
        def wrong(*arguments: Any, **named: Any) -> Any:
            fault = original(*arguments, **named)
            return PageFault(fault.error_code & ~1, fault.cr2) if isinstance(fault, PageFault) else fault

        return wrong

    model.wrap("kvm.inject.kvm_inject_emulated_page_fault", wrap)


@violates("emulating-cr0.wp/smep/kernel-may-execute")
def smep_does_nothing(model: BrokenModel) -> None:
    """The kernel may execute users' pages anyway."""

    def wrap(original: Any) -> Any:
        def wrong(registers: Any, how: Any, **rights: bool) -> bool:
            return bool(original(replace(registers, cr4=registers.cr4 & ~CR4_SMEP), how, **rights))

        return wrong

    model.wrap("hardware.permissions.permitted", wrap)


@violates("emulating-cr0.wp/smep/kernel-may-execute")
def smep_denies_all_execution_by_the_kernel(model: BrokenModel) -> None:
    """SMEP is taken not to look at U."""

    def wrap(original: Any) -> Any:
        def wrong(registers: Any, how: Any, **rights: bool) -> bool:
            denied = how.fetches and not how.user and registers.cr4 >> 20 & 1
            return not denied and bool(original(registers, how, **rights))

        return wrong

    model.wrap("hardware.permissions.permitted", wrap)


@violates("emulating-cr0.wp/smep/nx-set")
def the_kernels_spte_stays_executable(model: BrokenModel) -> None:
    """SMEP or not."""
    _spte_access(model, lambda vcpu, fault, granted, made: made | granted & 1)


@violates("emulating-cr0.wp/smep/nx-set")
def the_kernels_spte_is_never_executable(model: BrokenModel) -> None:
    """SMEP or not, what the kernel's write made has XD."""
    _spte_access(
        model,
        lambda vcpu, fault, granted, made: made & ~ACC_EXEC_MASK if made & ~granted else made,
    )


@violates("emulating-cr0.wp/smep/user-fault-reverts")
def xd_is_not_taken_back(model: BrokenModel) -> None:
    """With SMEP and without CR0.WP no read-only user page is executable again."""
    _spte_access(
        model,
        lambda vcpu, fault, granted, made: made & ~1 if vcpu.mmu.cpu_role.base.smep_andnot_wp else made,
    )


@violates("emulating-cr0.wp/smep/user-fault-reverts")
def u_is_not_taken_back(model: BrokenModel) -> None:
    """With SMEP and without CR0.WP no read-only page is one of users again."""
    _spte_access(
        model,
        lambda vcpu, fault, granted, made: (
            made & ~ACC_USER_MASK if vcpu.mmu.cpu_role.base.smep_andnot_wp and fault.user else made
        ),
    )


@violates("emulating-cr0.wp/smep/user-fault-reverts")
def xd_is_taken_back_from_the_guest_too(model: BrokenModel) -> None:
    """After a user's fault the page is executable though the guest's entry has XD."""
    _spte_access(model, lambda vcpu, fault, granted, made: made | ACC_EXEC_MASK if fault.user else made)


@violates("emulating-cr0.wp/smep/efer.nx-forced")
def the_host_takes_the_guests_nx(model: BrokenModel) -> None:
    """The processor runs with EFER.NXE as the guest has it."""
    _host_registers(
        model, lambda guest, host: replace(host, efer=host.efer & ~EFER_NXE | guest.efer & EFER_NXE)
    )


@violates("emulating-cr0.wp/smap/not-reused-with-smap", "emulating-cr0.wp/smap/in-the-role")
def smap_is_not_in_the_role(model: BrokenModel) -> None:
    """Pages made without SMAP serve with it."""
    _root_role(model, smap_andnot_wp=0)


@violates("emulating-cr0.wp/smap/smap-on-is-no-case")
def kvm_does_not_check_smap(model: BrokenModel) -> None:
    """Its walk lets the kernel write to user pages."""
    _walk_with(model, lambda registers: replace(registers, cr4=registers.cr4 & ~CR4_SMAP))


@violates("emulating-cr0.wp/smap/in-the-role")
def smap_is_in_the_role_with_wp_as_well(model: BrokenModel) -> None:
    """There are two sets of pages for a guest with CR0.WP = 1."""
    _with_wp_too(model, smap_andnot_wp="cr4_smap")


@violates("emulating-cr0.wp/roles/smep-in-role")
def smep_is_in_the_role_with_wp_as_well(model: BrokenModel) -> None:
    """There are two sets of pages for a guest with CR0.WP = 1."""
    _with_wp_too(model, smep_andnot_wp="cr4_smep")


def _with_wp_too(model: BrokenModel, **sources: str) -> None:
    """Fields of the role have what a bit of CR4 has, and CR0.WP has no part in it."""

    def wrap(original: Any) -> Any:
        def wrong(cpu_role: Any) -> Any:
            fields = {field: int(cpu_role.ext.has(bit)) for field, bit in sources.items()}
            return original(cpu_role).replace(**fields)

        return wrong

    model.wrap("kvm.cpu_role.shadow_root_role", wrap)


@violates("emulating-cr0.wp/roles/missed-by-lookup")
def all_pages_go_when_the_mode_changes(model: BrokenModel) -> None:
    """There is nothing left to be missed, or to be found again."""

    def wrap(original: Any) -> Any:
        def wrong(vcpu: Any) -> None:
            with vcpu.kvm.slots_lock:
                finish(kvm_mmu_zap_all_fast(vcpu.kvm))
            original(vcpu)

        return wrong

    model.wrap("kvm.roots.kvm_mmu_reset_context", wrap)


@violates("emulating-cr0.wp/roles/cr0.wp-in-role", "emulating-cr0.wp/roles/missed-by-lookup")
def wp_is_not_in_the_role(model: BrokenModel) -> None:
    """Pages made without CR0.WP serve with it."""
    _root_role(model, cr0_wp=0)


@violates("emulating-cr0.wp/roles/smep-issue", "emulating-cr0.wp/roles/smep-in-role")
def smep_is_not_in_the_role(model: BrokenModel) -> None:
    """Pages made without SMEP serve with it."""
    _root_role(model, smep_andnot_wp=0)
