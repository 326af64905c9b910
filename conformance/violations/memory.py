"""Wrong models: memory."""

from typing import Any

from conformance.broken import BrokenModel, nothing
from mmu_model.hardware import PAGE_SIZE
from mmu_model.kvm.fault import RET_PF_CONTINUE
from mmuspec.violations import violates

IN_PROCESS = "memory/guest-memory/in-the-process"
ALIASES = "memory/guest-memory/gpa-to-hva-aliases"
ANY_KIND = "memory/backing/any-kind-of-memory"

KERNEL_FRAMES = 1 << 19


@violates(IN_PROCESS)
def guests_have_memory_of_their_own(model: BrokenModel) -> None:
    """KVM backs guest frames itself; the memory of the process is another."""

    def change(original: Any) -> Any:
        def wrong(vcpu: Any, fault: Any, access: int) -> Any:
            result = original(vcpu, fault, access)
            if fault.pfn is not None:
                fault.pfn = KERNEL_FRAMES + fault.gfn % KERNEL_FRAMES
            return result

        return wrong

    model.wrap("kvm.faultin.kvm_faultin_pfn", change)


@violates(IN_PROCESS)
def kvm_fills_gaps_of_the_process(model: BrokenModel) -> None:
    """Where the process has nothing mapped the guest gets zeroes."""

    def change(original: Any) -> Any:
        def wrong(vcpu: Any, fault: Any, access: int) -> Any:
            try:
                return original(vcpu, fault, access)
            except LookupError:
                fault.pfn, fault.map_writable = KERNEL_FRAMES, True
                return RET_PF_CONTINUE

        return wrong

    model.wrap("kvm.faultin.kvm_faultin_pfn", change)


@violates(IN_PROCESS)
def private_memory_is_the_processs(model: BrokenModel) -> None:
    """As the document has it: whatever a frame's attribute, it is part of the process."""

    def change(original: Any) -> Any:
        def wrong(vcpu: Any, fault: Any, access: int) -> Any:
            kept, vcpu.kvm.private_gfns = vcpu.kvm.private_gfns, set()
            try:
                return (yield from original(vcpu, fault, access))
            finally:
                vcpu.kvm.private_gfns = kept

        return wrong

    model.wrap("kvm.faultin.faultin_pfn", change)


@violates(ALIASES)
def kvm_chooses_where_a_frame_is(model: BrokenModel) -> None:
    """The pages of a slot are not in the order in which the process has them."""
    model.wrap(
        "kvm.memslot.KvmMemorySlot.hva", lambda original: lambda slot, gfn: original(slot, gfn) ^ PAGE_SIZE
    )


@violates(ALIASES)
def an_alias_is_a_copy(model: BrokenModel) -> None:
    """A second slot over the same memory of the process gets frames of its own."""

    def change(original: Any) -> Any:
        def wrong(vcpu: Any, fault: Any, access: int) -> Any:
            result = original(vcpu, fault, access)
            if fault.pfn is not None and fault.slot is not None:
                fault.pfn += KERNEL_FRAMES * fault.slot.id
            return result

        return wrong

    model.wrap("kvm.faultin.kvm_faultin_pfn", change)


@violates(ALIASES)
def memslots_may_overlap(model: BrokenModel) -> None:
    """A guest frame may be in two slots, and so at two addresses of the process."""
    model.replace("kvm.memory_region.check_region", lambda *arguments: None)


@violates(ALIASES)
def smm_has_the_usual_memory(model: BrokenModel) -> None:
    """Its memslots are those of the rest."""
    model.replace("kvm.vcpu.KvmVcpu.memslots", property(lambda vcpu: vcpu.kvm.memslots[0]))
    model.replace("kvm.vm.Kvm.slots_for_role", lambda kvm, role: kvm.memslots[0])


@violates("memory/backing/paged-at-any-time", "events/translation-changes/by-gpa-to-hva-or-hva-to-hpa")
def frames_stay_with_the_guest(model: BrokenModel) -> None:
    """KVM does not hear of it when the host takes a frame."""
    model.replace("kvm.notifier.invalidate_range_start", nothing())


@violates(ANY_KIND)
def files_are_copied_for_the_guest(model: BrokenModel) -> None:
    """What it writes stays its own."""
    model.replace("kvm.process.Process.mmap_file", lambda process, contents, npages: process.mmap(npages))


@violates(ANY_KIND)
def the_memory_of_devices_is_not_mapped(model: BrokenModel) -> None:
    """Each access to it leaves the guest, as where there is no memory."""

    def change(original: Any) -> Any:
        def wrong(vcpu: Any, fault: Any, access: int) -> Any:
            result = yield from original(vcpu, fault, access)
            if vcpu.kvm.host.is_device(fault.pfn):
                fault.pfn = fault.slot = None
            return result

        return wrong

    model.wrap("kvm.faultin.faultin_pfn", change)


@violates(ANY_KIND)
def no_reference_is_needed(model: BrokenModel) -> None:
    """As the document has it: whatever the process has mapped the guest can have."""
    model.replace("kvm.host.Host.try_get_pfn", lambda host, pfn: True)


@violates(ANY_KIND)
def all_memory_is_cached(model: BrokenModel) -> None:
    """A device's, too."""
    model.replace("kvm.host.Host.is_device", lambda host, pfn: False)
