"""Wrong models: events."""

from typing import Any

from conformance.broken import BrokenModel
from mmu_model.hardware import ERROR_P, NestedPageFault, PageFault
from mmu_model.kvm.memory_region import finish_memslots_update
from mmu_model.kvm.roots import kvm_mmu_unload
from mmu_model.kvm.task import finish
from mmu_model.kvm.zap_all import kvm_mmu_zap_all_fast
from mmu_model.shadow.invlpg import kvm_mmu_invalidate_addr
from mmuspec.violations import violates

DRIVEN = "events/driven-by-events/guest-and-host"
REGISTERS = "events/control-register-writes/cr3-above-all"
INVALIDATIONS = "events/invalidations/invlpg-and-invlpga"
PRESSURE = "events/memory-pressure/shrinker"
ACCESS = "events/missing-or-protected/access"


@violates(DRIVEN)
def every_entry_ends_a_generation(model: BrokenModel) -> None:
    """Whenever the guest is entered, what KVM remembers of memslots is out of date, for no reason."""

    def change(original: Any) -> Any:
        def wrong(vcpu: Any) -> Any:
            finish_memslots_update(vcpu.kvm, vcpu.memslots)
            return original(vcpu)

        return wrong

    model.wrap("kvm.roots.serve_requests", change)


@violates(DRIVEN, "events/translation-changes/by-gpa-to-hva-or-hva-to-hpa")
def the_host_does_not_drive_the_mmu(model: BrokenModel) -> None:
    """A memslot may go, what was built for it stays."""
    model.replace("kvm.zap_all.kvm_mmu_zap_all_fast", lambda kvm: iter(()))


def _faults_are_no_events(model: BrokenModel, *, protected: bool) -> None:
    """The processor does not fault but goes to the page of zeroes of the kernel."""

    def change(original: Any) -> Any:
        def wrong(processor: Any, address: int, how: Any) -> int:
            try:
                return int(original(processor, address, how))
            except PageFault as fault:
                code = fault.error_code
                raised: Exception = fault
            except NestedPageFault as fault:
                code = fault.exit_info_1
                raised = fault
            if bool(code & ERROR_P) is not protected:
                raise raised
            return 0x100_0000

        return wrong

    model.wrap("hardware.processor.LogicalProcessor.translate", change)


@violates(ACCESS)
def missing_translations_read_as_zeroes(model: BrokenModel) -> None:
    """Where there is no spte the access succeeds without KVM."""
    _faults_are_no_events(model, protected=False)


@violates(ACCESS)
def writes_to_protected_memory_are_lost(model: BrokenModel) -> None:
    """Where an spte does not permit the access nothing happens, and nobody knows."""
    _faults_are_no_events(model, protected=True)


@violates(ACCESS)
def the_guests_own_faults_are_events(model: BrokenModel) -> None:
    """Page faults make an exit under nested paging as well, and KVM hands them on."""

    def change(original: Any) -> Any:
        def wrong(vcpu: Any, fault: Any) -> Any:
            right = original(vcpu, fault)
            vcpu.stat["pf_taken"] += right is None and isinstance(fault, PageFault)
            return right

        return wrong

    model.wrap("exits.exit_of", change)


@violates(INVALIDATIONS)
def invlpg_is_no_event(model: BrokenModel) -> None:
    """The processor forgets the translation, and finds it again where KVM has it."""
    model.replace("shadow.invlpg.kvm_mmu_invlpg", lambda vcpu, address: None)


@violates(INVALIDATIONS)
def invlpga_is_no_event(model: BrokenModel) -> None:
    """KVM goes on behind the instruction."""
    model.replace("hypervisor.Hypervisor.invlpga", lambda cpu, address, asid: None)


@violates(INVALIDATIONS)
def only_the_root_that_is_loaded_counts(model: BrokenModel) -> None:
    """Those that are remembered are left as they are."""

    def wrong(vcpu: Any, address: int) -> None:
        kvm_mmu_invalidate_addr(vcpu, address, vcpu.mmu.root)

    model.replace("shadow.invlpg.kvm_mmu_invlpg", wrong)


@violates(INVALIDATIONS, "synchronized-and-unsynchronized-pages/reachable-table/synchronized-on-invlpg")
def every_address_is_meant(model: BrokenModel) -> None:
    """A flush of one address is one of all."""

    def wrong(vcpu: Any, address: int) -> None:
        for page in range(16):
            for root in (vcpu.mmu.root, *vcpu.mmu.prev_roots):
                kvm_mmu_invalidate_addr(vcpu, page << 12, root)

    model.replace("shadow.invlpg.kvm_mmu_invlpg", wrong)


@violates(INVALIDATIONS)
def invlpga_is_an_event_under_nested_paging(model: BrokenModel) -> None:
    """Everything that was built is given up."""
    model.replace("hypervisor.Hypervisor.invlpga", lambda cpu, address, asid: kvm_mmu_unload(cpu.vcpu))


@violates(REGISTERS)
def a_write_to_cr0_is_no_event(model: BrokenModel) -> None:
    """The MMU remains as it was for the old CR0."""
    model.replace("kvm.registers.KVM_MMU_CR0_ROLE_BITS", 0)


@violates(REGISTERS)
def a_write_to_cr3_is_no_event(model: BrokenModel) -> None:
    """The roots remain those for the old CR3."""
    model.replace("kvm.roots.kvm_mmu_new_pgd", lambda vcpu, new_pgd: None)


@violates(REGISTERS)
def a_write_to_cr3_is_an_event_under_nested_paging(model: BrokenModel) -> None:
    """The roots are given up."""

    def change(original: Any) -> Any:
        def wrong(vcpu: Any, value: int) -> None:
            original(vcpu, value)
            if vcpu.kvm.parameters.tdp_enabled:
                kvm_mmu_unload(vcpu)

        return wrong

    model.wrap("kvm.registers.kvm_set_cr3", change)


@violates(REGISTERS)
def a_write_to_cr4_is_no_event(model: BrokenModel) -> None:
    """The MMU remains as it was for the old CR4."""
    model.replace("kvm.registers.KVM_MMU_CR4_ROLE_BITS", 0)


@violates(REGISTERS)
def a_write_to_efer_is_no_event(model: BrokenModel) -> None:
    """The MMU remains as it was for the old EFER."""
    model.replace("kvm.registers.KVM_MMU_EFER_ROLE_BITS", 0)


@violates(PRESSURE)
def memory_pressure_is_no_event(model: BrokenModel) -> None:
    """KVM gives nothing."""
    model.replace("kvm.shrinker.MmuShrinker.scan_objects", lambda shrinker, nr_to_scan: 0)


def _zap(model: BrokenModel, choose: Any) -> None:
    """Zap what `choose` makes of the list of pages, the oldest first, and of how many are wanted."""

    def change(original: Any) -> Any:
        names = original.__globals__

        def wrong(kvm: Any, count: int) -> int:
            gone: list[Any] = []
            chosen = choose(list(kvm.active_mmu_pages), count)
            for sp in chosen:
                names["kvm_mmu_prepare_zap_page"](kvm, sp, gone)
            names["kvm_mmu_commit_zap_page"](kvm, gone)
            return len(chosen)

        return wrong

    model.wrap("shadow.recycle.kvm_mmu_zap_oldest_mmu_pages", change)


@violates(PRESSURE)
def memory_pressure_takes_the_newest_pages(model: BrokenModel) -> None:
    """What was made last goes first."""
    _zap(model, lambda pages, count: [sp for sp in pages if not sp.root_count][-count:])


@violates(PRESSURE)
def memory_pressure_takes_one_page_too_many(model: BrokenModel) -> None:
    """One more than was asked for."""
    _zap(model, lambda pages, count: [sp for sp in pages if not sp.root_count][: count + 1])


@violates(PRESSURE)
def memory_pressure_takes_roots(model: BrokenModel) -> None:
    """Whether a vCPU has them loaded or not."""
    _zap(model, lambda pages, count: pages[:count])


@violates(PRESSURE)
def memory_pressure_is_for_the_first_vm(model: BrokenModel) -> None:
    """It gives every time."""

    def wrong(shrinker: Any, kvm: Any, nr_to_scan: int) -> int:
        with kvm.mmu_lock.write:
            return int(kvm.shadow.kvm_mmu_zap_oldest_mmu_pages(kvm, nr_to_scan))

    model.replace("kvm.shrinker.MmuShrinker._shrink", wrong)


@violates(PRESSURE)
def memory_pressure_takes_pages_of_the_tdp_mmu(model: BrokenModel) -> None:
    """All of them go, as if a memslot did."""
    model.replace("kvm.shrinker.MmuShrinker.count_objects", lambda shrinker: 1)

    def wrong(shrinker: Any, nr_to_scan: int) -> int:
        for kvm in shrinker.vm_list:
            with kvm.slots_lock:
                finish(kvm_mmu_zap_all_fast(kvm))
        return nr_to_scan

    model.replace("kvm.shrinker.MmuShrinker.scan_objects", wrong)
