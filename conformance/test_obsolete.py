"""Statements that the document no longer has, or that a patch proposed and no document ever had."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from conformance.looking import structs
from conformance.scenes import GIB, MIB, Scene, guest
from mmu_model.kvm.errors import KvmBug
from mmu_model.kvm.locks import Hold
from mmu_model.kvm.task import Task, running
from mmu_model.kvm.vcpu import KVM_REQ_MMU_FREE_OBSOLETE_ROOTS, Request
from mmu_model.machine import Cpu
from mmu_model.snapshot import MmuKind

WAITS = "waits for mmu_lock"


def second_cpu(scene: Scene) -> Cpu:
    """A vCPU that has not run yet, of the mode that the first one runs in."""
    return scene.vm.add_cpu()


@contextmanager
def held_by_another_task(lock: Hold) -> Iterator[None]:
    """Somebody else has the lock meanwhile."""
    somebody = Task("somebody else")
    with running(somebody):
        lock.acquire()
    try:
        yield
    finally:
        with running(somebody):
            lock.release()


def reads(cpu: Cpu, address: int) -> int | str:
    """What a guest reads, or WAITS where its vCPU would have to wait for somebody to let go of mmu_lock."""
    try:
        return cpu.read(address)
    except KvmBug as bug:
        if "would wait for ever" not in str(bug):
            raise
        return WAITS


@pytest.mark.spec("root_count/references-under-read-lock", refutes=True)
@pytest.mark.parametrize("kernel", ["6.1"])
def test_a_root_is_obtained_under_the_write_lock(kernel: str) -> None:
    """The root is there and in use. As long as somebody holds mmu_lock for read, a second vCPU that needs
    that root waits."""
    scene = guest(kernel, MmuKind.TDP)
    scene.reads(0x5000)
    (root,) = (sp for sp in structs(scene.vm) if sp.ptep is None)
    held = root.tdp_mmu_root_count
    other = second_cpu(scene)

    with held_by_another_task(scene.vm.kvm.mmu_lock.read):
        beside_a_reader = reads(other, 0x5000)

    assert held > 0
    assert (beside_a_reader, root.tdp_mmu_root_count) == (WAITS, held)
    assert reads(other, 0x5000) == 0


@pytest.mark.spec("root_count/references-under-read-lock")
@pytest.mark.parametrize("kernel", ["6.12"])
def test_a_root_is_shared_under_the_read_lock(kernel: str) -> None:
    """The second vCPU gets the root beside the reader, and holds a reference of its own."""
    scene = guest(kernel, MmuKind.TDP)
    scene.reads(0x5000)
    (root,) = (sp for sp in structs(scene.vm) if sp.ptep is None)
    held = root.tdp_mmu_root_count
    other = second_cpu(scene)

    with held_by_another_task(scene.vm.kvm.mmu_lock.read):
        beside_a_reader = reads(other, 0x5000)

    assert beside_a_reader == 0
    assert root.tdp_mmu_root_count == held + 1


@pytest.mark.spec("mmu_valid_gen/fast-zap-without-blocking", refutes=True)
def test_a_fault_waits_while_everything_is_made_obsolete(
    kernel: str, mmu: MmuKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the moment at which the vCPUs are told that their roots are obsolete, one of them faults: it has to
    wait for mmu_lock. Once that is free the guest runs on."""
    scene = guest(kernel, mmu, memory={GIB: MIB})
    scene.reads(0x5000)
    other = second_cpu(scene)
    assert reads(other, 0x5000) == 0
    kvm = scene.vm.kvm
    tell, meanwhile = kvm.make_all_cpus_request, []

    def told_while_one_faults(request: Request) -> None:
        tell(request)
        if request != KVM_REQ_MMU_FREE_OBSOLETE_ROOTS:
            return
        with running(Task("the other vCPU")):
            meanwhile.append(reads(other, 0x9000))

    monkeypatch.setattr(kvm, "make_all_cpus_request", told_while_one_faults)
    extra = kvm.memslots[0].by_id(1)
    assert extra is not None
    scene.vm.remove_memory(extra)

    assert meanwhile[0] == WAITS
    assert scene.reads(0x9000) == 0
