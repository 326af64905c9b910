"""Wrong models: reaction to events."""

from typing import Any

from conformance.broken import BrokenModel, nothing
from mmu_model.hardware import PAGE_SHIFT, Kind, access
from mmu_model.kvm import guest_walk
from mmu_model.kvm.fault import KvmPageFault
from mmu_model.kvm.guest_memory import GuestMemory
from mmu_model.kvm.types import pa
from mmuspec.violations import violates

R = "reaction-to-events"


@violates(f"{R}/cause-guest-fault/guest-denies", f"{R}/guest-walk-denied/fault-reflected")
def users_are_judged_as_the_kernel(model: BrokenModel) -> None:
    """KVM's walk does not ask who made the access, and its sptes are for users."""

    def wrap(original: Any) -> Any:
        def wrong(memory: Any, paging: Any, how: Any, address: int) -> Any:
            walker = original(memory, paging, access(Kind.READ), address)
            walker.pte_access |= 4
            return walker

        return wrong

    model.wrap("kvm.guest_walk.walk_addr", wrap)


@violates(f"{R}/guest-walk-denied/fault-reflected")
def the_error_code_is_the_processors(model: BrokenModel) -> None:
    """The guest gets the error code of the fault on KVM's tables, on which nothing was present."""

    def wrap(original: Any) -> Any:
        def wrong(memory: Any, paging: Any, how: Any, address: int) -> Any:
            try:
                return original(memory, paging, how, address)
            except Exception as fault:
                fault.error_code &= ~1  # type: ignore[attr-defined]
                raise

        return wrong

    model.wrap("kvm.guest_walk.walk_addr", wrap)


@violates(f"{R}/guest-walk-denied/fault-reflected")
def the_address_of_a_fault_is_that_of_its_page(model: BrokenModel) -> None:
    """CR2 has not the very byte."""

    def wrap(original: Any) -> Any:
        def wrong(memory: Any, paging: Any, how: Any, address: int) -> Any:
            return original(memory, paging, how, address & -4096)

        return wrong

    model.wrap("kvm.guest_walk.walk_addr", wrap)


@violates(f"{R}/cause-guest-fault/guest-denies")
def an_entry_is_made_for_what_is_denied(model: BrokenModel) -> None:
    """The guest gets the fault, and KVM maps the frame for whoever may read it."""

    def wrap(original: Any) -> Any:
        def wrong(vcpu: Any, fault: Any) -> Any:
            result = original(vcpu, fault)
            denied = vcpu.exception
            if denied is not None:
                how = {"prefetch": False, "is_tdp": False, "nx_huge_pages": False}
                original(vcpu, KvmPageFault(fault.addr, 0, **how))
                vcpu.exception = denied
            return result

        return wrong

    model.wrap("shadow.fetch.paging_page_fault", wrap)


def _leaf_for_the_kernels_page(model: BrokenModel) -> None:
    def wrap(original: Any) -> Any:
        def wrong(
            kvm: Any, sp: Any, slot: Any, rights: int, gfn: int, pfn: int, *rest: Any, **how: Any
        ) -> Any:
            zeroes = pa(kvm.host.zero_page) >> PAGE_SHIFT
            return original(kvm, sp, slot, rights, gfn, zeroes, *rest, **how)

        return wrong

    model.wrap("kvm.make_spte.make_spte", wrap)


@violates(f"{R}/cause-missing/missing-translation", f"{R}/host-page/determined")
def a_missing_translation_leads_to_the_page_of_zeroes(model: BrokenModel) -> None:
    """The host's page is not looked up."""
    _leaf_for_the_kernels_page(model)


@violates(f"{R}/not-in-direct-mode/footnote")
def tables_of_all_guests_are_protected(model: BrokenModel) -> None:
    """Under nested paging writes to what may be a table fault as well."""

    def wrap(original: Any) -> Any:
        def wrong(*arguments: Any, **how: Any) -> Any:
            spte, wrprot = yield from original(*arguments, **how)
            return (spte & ~0x402, True) if arguments[4] >> 8 == 0x20 else (spte, wrprot)

        return wrong

    model.wrap("kvm.make_spte.make_spte", wrap)


@violates(f"{R}/not-in-direct-mode/footnote")
def nested_tables_are_not_protected_in_direct_mode(model: BrokenModel) -> None:
    """As the document has it, shadowed tables are no cause of faults there."""
    model.replace("shadow.accounting.write_protect_gfn", lambda kvm, slot, gfn: False)
    model.replace("kvm.page_track.kvm_gfn_is_write_tracked", lambda slot, gfn: False)
    model.replace("tdp.protect.kvm_tdp_mmu_write_protect_gfn", nothing(False))


@violates(f"{R}/guest-walk/if-needed")
def every_fault_makes_kvm_walk_the_guests_tables(model: BrokenModel) -> None:
    """Whatever the MMU, before anything else."""

    def wrap(original: Any) -> Any:
        def wrong(vcpu: Any, *fault: Any) -> Any:
            if vcpu.mmu.root_role.direct and vcpu.registers.cr0 >> 31:
                guest_walk.walk_addr(
                    GuestMemory(vcpu.kvm, vcpu.memslots), vcpu.mmu.guest_paging, access(Kind.READ), 0x5000
                )
            return original(vcpu, *fault)

        return wrong

    model.wrap("kvm.page_fault.kvm_mmu_page_fault", wrap)


@violates(f"{R}/guest-walk/if-needed")
def nested_tables_are_not_walked(model: BrokenModel) -> None:
    """What a hypervisor says of its guest's addresses does not count: they are its own."""

    def wrap(original: Any) -> Any:
        def wrong(memory: Any, paging: Any, how: Any, address: int) -> Any:
            walker = original(memory, paging, how, address)
            walker.gfn = address >> PAGE_SHIFT
            return walker

        return wrong

    model.wrap("kvm.guest_walk.walk_addr", wrap)


@violates(f"{R}/shadow-walk/finds-or-instantiates")
def tables_are_made_anew_for_every_fault(model: BrokenModel) -> None:
    """What an spte leads to already is replaced."""

    def wrap(original: Any) -> Any:
        def wrong(vcpu: Any, sptep: int, gfn: int, **how: Any) -> Any:
            vcpu.kvm.host.write(sptep, vcpu.kvm.kernel.shadow_nonpresent_value)
            return original(vcpu, sptep, gfn, **how)

        return wrong

    model.wrap("shadow.pages.kvm_mmu_get_child_sp", wrap)
    model.replace("shadow.pages.kvm_mmu_find_shadow_page", lambda vcpu, gfn, role: None)


@violates(f"{R}/update-modified/translations")
def emulated_writes_leave_sptes_alone(model: BrokenModel) -> None:
    """What the guest's table said before stays in the shadow."""
    model.replace("shadow.track_write.kvm_mmu_track_write", lambda vcpu, gpa, size: None)


@violates(f"{R}/notifier-called/updated-hva", f"{R}/notifier-drop/translations")
def the_notifier_drops_nothing(model: BrokenModel) -> None:
    """The host takes a page away, and the guest goes on with it."""
    model.replace("kvm.notifier.invalidate_range_start", nothing())


@violates(f"{R}/notifier-called/updated-hva", f"{R}/notifier-drop/translations")
def the_page_behind_goes_as_well(model: BrokenModel) -> None:
    """The end of what changes is taken to be part of it."""

    def wrap(original: Any) -> Any:
        return lambda kvm, start, end: original(kvm, start, end + 4096)

    model.wrap("kvm.notifier.invalidate_range_start", wrap)


@violates(
    f"{R}/notifier-lookup/through-reverse-map",
    "reverse-map/all-sptes-of-a-gfn/reached-by-gfn",
    "reverse-map/all-sptes-of-a-gfn/swapping-out",
)
def only_the_first_spte_of_a_frame_is_listed(model: BrokenModel) -> None:
    """Others that map it are not found."""

    def wrap(original: Any) -> Any:
        def wrong(host: Any, head: Any, sptep: int) -> int:
            return 0 if head.val else int(original(host, head, sptep))

        return wrong

    model.wrap("kvm.rmap.pte_list_add", wrap)
