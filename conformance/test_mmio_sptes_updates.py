"""Section "Fast invalidation of MMIO sptes": accesses while the memslots change."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from conformance.between import before
from conformance.mmio import DEVICE, UPDATE, add_a_slot, forget_in_the_vcpu, mmio_spte, slow
from conformance.scenes import MIB, Scene, guest
from mmu_model.hardware import Gfn
from mmu_model.kvm import mmio
from mmu_model.kvm.memory_region import create_slot
from mmu_model.kvm.memslot import KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS, KvmMemorySlot
from mmu_model.kvm.spte import MMIO_SPTE_GEN_MASK
from mmu_model.kvm.task import Task, finish, running
from mmu_model.snapshot import MmuKind


def during_an_update(scene: Scene, act: Callable[[], None]) -> None:
    """Add a slot, and let the guest run before the update is over."""

    with before(UPDATE, act):
        add_a_slot(scene)


@contextmanager
def memory_comes_in_the_middle_of_an_access(scene: Scene) -> Iterator[KvmMemorySlot]:
    """The guest accesses DEVICE, where there is no memory; when KVM has found that out, and before it does anything
    about it, the process puts memory there. While the context lasts the access is over and the update is not."""
    kvm, process = scene.vm.kvm, Task("process")
    slot = KvmMemorySlot(1, Gfn(DEVICE >> 12), MIB >> 12, scene.vm.process.mmap(MIB >> 12))
    update = create_slot(kvm, slot)

    def begin() -> None:
        with running(process):
            for stop in update:
                if not isinstance(stop, str) and not stop.ready():
                    return

    try:
        with kvm.srcu.read, before("kvm.faultin._handle_noslot_fault", begin):
            scene.reads(DEVICE)
            yield slot
    finally:
        with running(process):
            finish(update)


@pytest.mark.spec("fast-invalidation-of-mmio-sptes/in-progress/bit-63-during-update")
def test_bit_63_is_set_during_an_update_only(kernel: str) -> None:
    """Before and after it is clear; and the update makes one step of the generation, not two."""
    scene = guest(kernel, MmuKind.TDP)
    generations = [scene.vm.kvm.memslots[0].generation]
    with before(UPDATE, lambda: generations.append(scene.vm.kvm.memslots[0].generation)):
        add_a_slot(scene)
    generations.append(scene.vm.kvm.memslots[0].generation)

    first, middle, last = generations
    assert first >> 63 == 0
    assert middle == first | KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS
    assert last == first + len(scene.vm.kvm.memslots)


@pytest.mark.spec("fast-invalidation-of-mmio-sptes/in-progress/bit-63-during-update")
def test_bit_63_stays_set_for_as_long_as_somebody_uses_the_old_slots(kernel: str, mmu: MmuKind) -> None:
    """An access has read the memslots before the change, and is not over: the update waits for it."""
    scene = guest(kernel, mmu)
    slots = scene.vm.kvm.memslots[0]

    with memory_comes_in_the_middle_of_an_access(scene) as slot:
        meanwhile = slots.find(DEVICE >> 12) is slot, slots.generation >> 63

    assert meanwhile == (True, 1)
    assert slots.generation >> 63 == 0


@pytest.mark.spec("fast-invalidation-of-mmio-sptes/in-progress/no-odd-generation", refutes=True)
def test_odd_generations_are_as_good_as_even_ones(kernel: str, mmu: MmuKind) -> None:
    """Those of SMM are all odd; an MMIO spte made in SMM is believed there."""
    scene = guest(kernel, mmu)
    scene.vm.add_memory(0, MIB, as_id=1)
    scene.cpu.enter_smm()
    assert scene.vm.kvm.memslots[1].generation % 2 == 1
    assert slow(scene)
    forget_in_the_vcpu(scene)

    assert not slow(scene)


@pytest.mark.spec("fast-invalidation-of-mmio-sptes/in-progress/not-stored")
def test_the_flag_is_not_in_the_spte(kernel: str, mmu: MmuKind) -> None:
    """An MMIO spte made during an update has the generation without it."""
    scene = guest(kernel, mmu)
    scene.vm.kvm.memslots[0].generation = 0x123456
    seen: list[int] = []

    def act() -> None:
        scene.reads(DEVICE)
        spte = mmio_spte(scene)
        assert spte is not None
        seen.append(mmio.get_mmio_spte_generation(spte.raw))

    during_an_update(scene, act)

    assert seen == [0x123456 & (1 << 19) - 1]


@pytest.mark.spec("fast-invalidation-of-mmio-sptes/in-progress/always-misses-once")
@pytest.mark.spec("fast-invalidation-of-mmio-sptes/in-progress/examples")
def test_an_spte_made_during_an_update_is_never_believed(kernel: str, mmu: MmuKind) -> None:
    """Not during the rest of the update, for the flag is set; and not after it, for the generation is another."""
    scene = guest(kernel, mmu)
    seen: list[bool] = []

    def act() -> None:
        seen.extend((slow(scene), slow(scene)))
        assert mmio_spte(scene) is not None

    during_an_update(scene, act)
    seen.append(slow(scene))
    seen.append(slow(scene))

    assert seen == [True, True, True, False]


@pytest.mark.spec("fast-invalidation-of-mmio-sptes/race/memslots-read-several-times")
def test_one_access_reads_the_memslots_several_times(kernel: str, mmu: MmuKind) -> None:
    """The first time there is no memory, so that an MMIO spte is made. A later time the update is seen, so that the
    vCPU remembers nothing."""
    scene = guest(kernel, mmu)

    with memory_comes_in_the_middle_of_an_access(scene):
        remembered = scene.cpu.vcpu.mmio.gfn

    assert remembered == 0
    assert mmio_spte(scene) is not None


@pytest.mark.spec("fast-invalidation-of-mmio-sptes/race/memslots-read-several-times")
def test_an_access_that_nobody_disturbs_is_remembered(kernel: str, mmu: MmuKind) -> None:
    """Edge: all readings agree."""
    scene = guest(kernel, mmu)
    scene.reads(DEVICE)

    assert scene.cpu.vcpu.mmio.gfn == DEVICE >> 12


@pytest.mark.spec("fast-invalidation-of-mmio-sptes/race/old-slots-new-generation")
def test_an_spte_of_old_memslots_gets_the_generation_of_the_new(kernel: str, mmu: MmuKind) -> None:
    """It says that there is no memory where there is some by now, and its generation is that of the memslots that
    have it."""
    scene = guest(kernel, mmu)

    with memory_comes_in_the_middle_of_an_access(scene) as slot:
        spte, slots = mmio_spte(scene), scene.vm.kvm.memslots[0]
        assert slots.find(DEVICE >> 12) is slot
        assert spte is not None and spte.mmio_gfn == DEVICE >> 12
        assert spte.mmio_generation == slots.generation & MMIO_SPTE_GEN_MASK

    assert scene.reads(DEVICE) == 0
    assert mmio_spte(scene) is None
