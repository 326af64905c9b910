"""Roots of the TDP MMU: made, shared, let go of and invalidated at the same time."""

from conformance.races.actors import TOUCHED, faults, lets_go, obtains_root, two_vcpus, zaps_all
from conformance.races.truths import whole
from conformance.scenes import guest
from mmu_model.kvm.roots import serve_requests
from mmu_model.kvm.task import finish
from mmu_model.schedule import Race
from mmu_model.snapshot import MmuKind


def two_root_allocations(kernel: str) -> Race:
    """Two vCPUs need a root of the same role, and there is none."""
    scene, second = two_vcpus(kernel, loaded=False)
    kvm = scene.vm.kvm

    def at_end() -> None:
        whole(scene.vm)
        assert len(kvm.tdp_mmu_roots) == 1, f"{len(kvm.tdp_mmu_roots)} roots of one role"
        assert kvm.tdp_mmu_roots[0].tdp_mmu_root_count == 3

    return Race({"vcpu0": obtains_root(scene.cpu.vcpu), "vcpu1": obtains_root(second.vcpu)}, at_end=at_end)


def references_come_and_go(kernel: str) -> Race:
    """One vCPU lets go of a root while another takes a reference to it, and a third lets go, too."""
    scene, second = two_vcpus(kernel)
    third = scene.vm.add_cpu()
    (root,) = scene.vm.kvm.tdp_mmu_roots

    def at_end() -> None:
        assert root.tdp_mmu_root_count == 2, f"{root.tdp_mmu_root_count} references, one to a vCPU"
        whole(scene.vm)

    actors = {
        "vcpu0": lets_go(scene.cpu.vcpu),
        "vcpu1": lets_go(second.vcpu),
        "vcpu2": obtains_root(third.vcpu),
    }
    return Race(actors, at_end=at_end)


def last_reference_against_iteration(kernel: str) -> Race:
    """A vCPU gives its obsolete root up, to which there is no other reference, while all roots are gone through."""
    scene = guest(kernel, MmuKind.TDP)
    scene.cpu.read(TOUCHED)
    vm = scene.vm
    finish(zaps_all(vm))

    def at_end() -> None:
        finish(serve_requests(scene.cpu.vcpu))
        whole(vm)
        assert not any(root.role.invalid for root in vm.kvm.tdp_mmu_roots), "an invalid root is left"

    return Race({"vcpu": obtains_root(scene.cpu.vcpu), "process": zaps_all(vm)}, at_end=at_end)


def fault_against_zap(kernel: str) -> Race:
    """A vCPU faults while everything is zapped."""
    scene = guest(kernel, MmuKind.TDP)
    finish(serve_requests(scene.cpu.vcpu))

    def at_end() -> None:
        finish(serve_requests(scene.cpu.vcpu))
        whole(scene.vm)
        assert not any(root.role.invalid for root in scene.vm.kvm.tdp_mmu_roots), "an invalid root is left"

    return Race({"vcpu": faults(scene.cpu.vcpu, TOUCHED), "process": zaps_all(scene.vm)}, at_end=at_end)
