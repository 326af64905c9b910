"""Memslots come and go while vCPUs fault and the host moves memory."""

from conformance.looking import backing, structs
from conformance.races.actors import accesses, faults, migrates, write
from conformance.races.truths import leaf, leafs, whole
from conformance.scenes import GIB, MIB, PAGE, guest
from mmu_model.hardware import PAGE_SHIFT, Gfn
from mmu_model.kvm.memory_region import create_slot, replace_slot
from mmu_model.kvm.memslot import KvmMemorySlot
from mmu_model.kvm.mmio import check_mmio_spte, mmio_info_in_cache
from mmu_model.kvm.roots import serve_requests
from mmu_model.kvm.spte import spte_to_pfn
from mmu_model.kvm.task import Steps, finish
from mmu_model.kvm.types import PG_LEVEL_4K
from mmu_model.schedule import Race
from mmu_model.snapshot import MmuKind


def fast_zap_against_vcpu(kernel: str) -> Race:
    """A slot goes while the guest touches its memory for the first time."""
    scene = guest(kernel, MmuKind.TDP)
    slot = scene.vm.add_memory(GIB, MIB)
    vm, vcpu = scene.vm, scene.cpu.vcpu
    finish(serve_requests(vcpu))
    frames = {backing(vm, GIB + offset >> PAGE_SHIFT) for offset in range(0, MIB, PAGE)}

    def at_end() -> None:
        whole(vm)
        usable = [spte for sp, _, spte in leafs(vm) if sp.role.level == PG_LEVEL_4K]
        assert not frames & {spte_to_pfn(spte) for spte in usable}, "memory is mapped that is gone"

    return Race({"vcpu": faults(vcpu, GIB), "process": replace_slot(vm.kvm, slot, None)}, at_end=at_end)


def freed_memory_against_guest(kernel: str) -> Race:
    """A slot goes, and then its memory, while the guest writes to it by what its TLB knows."""
    scene = guest(kernel, MmuKind.TDP)
    slot = scene.vm.add_memory(GIB, PAGE)
    vm = scene.vm
    scene.cpu.write(GIB, 1)
    frame, kept = (backing(vm, GIB >> PAGE_SHIFT) or 0) << PAGE_SHIFT, list[int]()

    def frees() -> Steps[None]:
        yield from replace_slot(vm.kvm, slot, None)
        kept.append(vm.host.memory.read(frame))
        yield "has given the memory to somebody else"

    def at_end() -> None:
        finish(serve_requests(scene.cpu.vcpu))
        whole(vm)
        assert [vm.host.memory.read(frame)] == kept, "the guest wrote to memory that is not its own any more"

    return Race({"vcpu": accesses(scene.cpu, write(GIB, 2)), "process": frees()}, at_end=at_end)


def mmio_against_new_memory(kernel: str) -> Race:
    """The guest touches an address without memory while the process puts memory there."""
    scene = guest(kernel, MmuKind.TDP)
    vm, vcpu = scene.vm, scene.cpu.vcpu
    finish(serve_requests(vcpu))
    slot = KvmMemorySlot(1, Gfn(GIB >> PAGE_SHIFT), MIB >> PAGE_SHIFT, vm.process.mmap(MIB >> PAGE_SHIFT))

    def at_end() -> None:
        spte = next((vm.host.read(leaf(vm, GIB)) for sp in structs(vm) if sp.role.level == PG_LEVEL_4K), 0)
        believed = vm.kvm.masks.is_mmio(spte) and check_mmio_spte(vcpu, spte)
        assert not believed, "an spte says that there is no memory, and is believed"
        assert not mmio_info_in_cache(vcpu, GIB, direct=True), "the vCPU believes that there is no memory"

    return Race({"vcpu": faults(vcpu, GIB), "process": create_slot(vm.kvm, slot)}, at_end=at_end)


def slot_against_notifier(kernel: str) -> Race:
    """A slot goes while the host moves a page of it: what begins in a slot is to end in it."""
    scene = guest(kernel, MmuKind.TDP)
    slot = scene.vm.add_memory(GIB, MIB)
    kvm = scene.vm.kvm
    finish(faults(scene.cpu.vcpu, GIB))

    def at_end() -> None:
        finish(serve_requests(scene.cpu.vcpu))
        whole(scene.vm)
        assert not kvm.mmu_invalidate_in_progress, "faults will be tried again for ever"
        assert not kvm.mn_active_invalidate_count

    return Race(
        {"host": migrates(scene.vm, slot.userspace_addr), "process": replace_slot(kvm, slot, None)},
        at_end=at_end,
    )
