"""Wrong models: translation."""

from typing import Any

from conformance.broken import BrokenModel
from mmu_model.hardware import CR0_PG, CR4_PAE, EFER_LMA, PAGE_SHIFT, NestedPaging, Registers
from mmu_model.kvm.fault import RET_PF_EMULATE
from mmuspec.violations import violates

PROGRAMS = "translation/primary-job/programs-the-processor"
OFF = "translation/guest-paging-off/gpa-to-hpa"
ON = "translation/guest-paging-on/gva-to-gpa-to-hpa"
NESTED = "translation/nested/ngva-to-ngpa-to-gpa-to-hpa"
ENCODE = "translation/direct-or-shadow/encode-one-to-three"
TASK = "introduction/task/task"
SECURE = "introduction/security/no-host-memory-but-its-own"
DIRECT = "translation/direct-or-shadow/direct-when-they-match"


@violates(PROGRAMS, "events/driven-by-events/guest-and-host")
def kvm_carries_out_every_access(model: BrokenModel) -> None:
    """No fault leads to an spte: the guest is emulated."""
    model.replace("kvm.page_fault._do_page_fault", lambda *fault: RET_PF_EMULATE)


@violates(PROGRAMS, ENCODE, "acronyms/spte/meaning")
def the_processor_walks_the_guests_own_tables(model: BrokenModel) -> None:
    """Without nested paging CR3 is loaded with what the guest loaded it with."""
    model.wrap(
        "guest_entry.shadow_paging_registers", lambda original: lambda guest, root: original(guest, guest.cr3)
    )


@violates(OFF, ON, NESTED, "acronyms/gpa/meaning", "acronyms/gpte/meaning", TASK, SECURE)
def guest_physical_is_host_physical(model: BrokenModel) -> None:
    """The guest gets the host's frame of the same number as its own."""

    def change(original: Any) -> Any:
        def wrong(vcpu: Any, fault: Any, access: int) -> Any:
            result = original(vcpu, fault, access)
            fault.pfn = fault.gfn
            return result

        return wrong

    model.wrap("kvm.faultin.kvm_faultin_pfn", change)


@violates(OFF)
def paging_cannot_be_turned_off(model: BrokenModel) -> None:
    """A guest that had paging goes on having it, by the tables that it had."""

    def change(original: Any) -> Any:
        def wrong(vcpu: Any, registers: Any) -> None:
            had = vcpu.registers
            original(vcpu, had if had.cr0 & CR0_PG and not registers.cr0 & CR0_PG else registers)

        return wrong

    model.wrap("kvm.registers.load_registers", change)


@violates(ON, "acronyms/gva/meaning")
def linear_addresses_are_guest_physical(model: BrokenModel) -> None:
    """The guest's tables are not asked where an address leads: not by KVM, not by the processor."""
    _skip_tables_in_kvm(model)
    _skip_tables_in_the_processor(model)


@violates(NESTED, "acronyms/ngva/meaning")
def nested_linear_addresses_are_nested_guest_physical(model: BrokenModel) -> None:
    """The inner guest's tables are not asked."""
    _skip_tables_in_the_processor(model)


@violates(NESTED, "acronyms/ngpa/meaning")
def nested_guest_physical_addresses_are_guest_physical(model: BrokenModel) -> None:
    """The tables of the guest hypervisor are not asked."""
    _skip_tables_in_kvm(model)


def _skip_tables_in_kvm(model: BrokenModel) -> None:
    def change(original: Any) -> Any:
        def wrong(memory: Any, paging: Any, how: Any, address: int) -> Any:
            walker = original(memory, paging, how, address)
            walker.gfn = address >> PAGE_SHIFT
            return walker

        return wrong

    model.wrap("kvm.guest_walk.walk_addr", change)


def _skip_tables_in_the_processor(model: BrokenModel) -> None:
    def change(original: Any) -> Any:
        def wrong(processor: Any, registers: Any, second_dimension: Any, **more: Any) -> None:
            if second_dimension is not None:
                registers = Registers(maxphyaddr=registers.maxphyaddr)
            original(processor, registers, second_dimension, **more)

        return wrong

    model.wrap("hardware.processor.LogicalProcessor.enter_guest", change)


@violates(ENCODE)
def nested_guests_get_the_tables_of_their_hypervisor(model: BrokenModel) -> None:
    """The processor is to walk what the guest hypervisor made, as if that held host-physical addresses."""

    def change(original: Any) -> Any:
        def wrong(vcpu: Any) -> Any:
            if vcpu.guest_mode:
                return NestedPaging(vcpu.mmu.guest_pgd, cr4=CR4_PAE, efer=EFER_LMA, maxphyaddr=46)
            return original(vcpu)

        return wrong

    model.wrap("guest_entry.second_dimension", change)


@violates(DIRECT)
def shadow_paging_is_direct(model: BrokenModel) -> None:
    """A guest with paging has direct roots although the processor makes one translation."""
    model.wrap(
        "kvm.cpu_role.shadow_root_role", lambda original: lambda role: original(role).replace(direct=1)
    )


@violates(DIRECT)
def a_guest_without_paging_is_shadowed(model: BrokenModel) -> None:
    """One translation is needed and one is made, and it is not direct."""
    model.wrap(
        "kvm.cpu_role.shadow_root_role", lambda original: lambda role: original(role).replace(direct=0)
    )


@violates(DIRECT)
def nested_guests_are_direct(model: BrokenModel) -> None:
    """Three translations are needed and two are made, and it is direct."""

    def change(original: Any) -> Any:
        return lambda cpu_role, *, level: original(cpu_role, level=level).replace(direct=1)

    model.wrap("kvm.cpu_role.shadow_npt_root_role", change)


@violates(DIRECT)
def nested_paging_is_for_matching_translations_alone(model: BrokenModel) -> None:
    """As the document has it: where the processor could make more translations than are needed, not direct."""

    def change(original: Any) -> Any:
        def wrong(cpu_role: Any, **named: Any) -> Any:
            return original(cpu_role, **named).replace(direct=1 - cpu_role.base.direct)

        return wrong

    model.wrap("kvm.cpu_role.tdp_root_role", change)


@violates(DIRECT)
def guests_with_paging_are_shadowed_over_nested_paging(model: BrokenModel) -> None:
    """Two translations are needed and two are made, and it is not direct."""

    def change(original: Any) -> Any:
        def wrong(cpu_role: Any, **named: Any) -> Any:
            return original(cpu_role, **named).replace(direct=cpu_role.base.direct)

        return wrong

    model.wrap("kvm.cpu_role.tdp_root_role", change)
