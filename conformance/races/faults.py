"""Faults against each other, and against the host."""

from conformance.races.actors import TOUCHED, accesses, faults, migrates, two_vcpus, write
from conformance.races.truths import maps_what_the_host_does, whole
from conformance.scenes import MIB, PAGE, guest
from mmu_model.hardware import PAGE_SHIFT
from mmu_model.kvm.roots import serve_requests
from mmu_model.kvm.task import finish
from mmu_model.kvm.types import PG_LEVEL_2M, PG_LEVEL_4K
from mmu_model.kvm.vm import TdpFormat
from mmu_model.schedule import Race
from mmu_model.snapshot import MmuKind


def two_faults_on_one_gfn(kernel: str) -> Race:
    """Two vCPUs touch the same page for the first time, the first one below a table of level 2."""
    scene, second = two_vcpus(kernel)
    finish(faults(scene.cpu.vcpu, 2 * MIB))

    def at_end() -> None:
        whole(scene.vm)
        assert scene.vm.kvm.stat["pages_4k"] == 2
        maps_what_the_host_does(scene.vm, TOUCHED)

    return Race(
        {"vcpu0": faults(scene.cpu.vcpu, TOUCHED), "vcpu1": faults(second.vcpu, TOUCHED)}, at_end=at_end
    )


def huge_page_against_small(kernel: str) -> Race:
    """One vCPU replaces a table by a page of 2 MiB, another adds a page of 4 KiB to the table."""
    scene, second = two_vcpus(kernel, host_level=PG_LEVEL_2M)
    finish(faults(scene.cpu.vcpu, 2 * MIB, max_level=PG_LEVEL_4K))
    return Race(
        {
            "vcpu0": faults(scene.cpu.vcpu, 2 * MIB + PAGE),
            "vcpu1": faults(second.vcpu, 2 * MIB + 2 * PAGE, max_level=PG_LEVEL_4K),
        },
        at_end=lambda: whole(scene.vm),
    )


def fault_against_notifier(kernel: str) -> Race:
    """A vCPU faults while the host moves the page."""
    scene = guest(kernel, MmuKind.TDP)
    finish(serve_requests(scene.cpu.vcpu))
    (slot,) = scene.vm.kvm.memslots[0]

    def at_end() -> None:
        whole(scene.vm)
        maps_what_the_host_does(scene.vm, TOUCHED)

    host = migrates(scene.vm, slot.hva(TOUCHED >> PAGE_SHIFT))
    return Race({"vcpu": faults(scene.cpu.vcpu, TOUCHED), "host": host}, at_end=at_end)


def aged_page_against_notifier(kernel: str) -> Race:
    """Without accessed flags: the guest uses a page again that was made old, while the host moves it."""
    scene = guest(kernel, MmuKind.TDP, tdp_format=TdpFormat.EPT_WITHOUT_AD)
    scene.cpu.write(TOUCHED, 1)
    (slot,) = scene.vm.kvm.memslots[0]
    hva = slot.hva(TOUCHED >> PAGE_SHIFT)
    assert scene.vm.process.was_used(hva, 1)
    finish(serve_requests(scene.cpu.vcpu))

    def at_end() -> None:
        maps_what_the_host_does(scene.vm, TOUCHED)
        whole(scene.vm)

    actors = {"vcpu": faults(scene.cpu.vcpu, TOUCHED), "host": migrates(scene.vm, hva)}
    return Race(actors, at_end=at_end)


def flush_against_entry(kernel: str) -> Race:
    """The guest, whose TLB knows a page, writes to it while the host moves the page."""
    scene = guest(kernel, MmuKind.TDP)
    scene.cpu.write(TOUCHED, 1)
    (slot,) = scene.vm.kvm.memslots[0]

    def at_end() -> None:
        whole(scene.vm)
        assert scene.vm.memory.read(TOUCHED) == 2, "the guest wrote to a frame that is not its own any more"

    host = migrates(scene.vm, slot.hva(TOUCHED >> PAGE_SHIFT))
    return Race({"vcpu": accesses(scene.cpu, write(TOUCHED, 2)), "host": host}, at_end=at_end)
