"""Section "Fast invalidation of MMIO sptes"."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from conformance.between import before
from conformance.broken import BrokenModel
from conformance.pictures import Camera
from conformance.scenes import GIB, MIB, Scene, guest
from mmu_model.hardware import Gfn
from mmu_model.kvm import mmio
from mmu_model.kvm.locks import Hold
from mmu_model.kvm.memory_region import create_slot
from mmu_model.kvm.memslot import KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS, KvmMemorySlot
from mmu_model.kvm.spte import MMIO_SPTE_GEN_MASK
from mmu_model.kvm.task import Task, finish, running
from mmu_model.snapshot import MmuKind, Spte
from mmu_model.snapshot.spte import Kind

DEVICE = 0xF000_0000
"""A guest-physical address without memory."""

UPDATE = "kvm.memory_region.finish_memslots_update"
"""What KVM calls at the end of a change of memslots, when nobody uses the old ones any more."""


def mmio_spte(scene: Scene) -> Spte | None:
    """The only MMIO spte that there is."""
    found = [
        spte
        for page in scene.vm.snapshot().pages
        for spte in page.sptes().values()
        if spte.kind is Kind.MMIO and page.role.level == 1
    ]
    assert len(found) <= 1
    return found[0] if found else None


def slow(scene: Scene) -> bool:
    """Whether an access to DEVICE goes the long way, through the memslots."""
    stat = scene.cpu.vcpu.stat
    taken = stat["pf_taken"]
    scene.reads(DEVICE)
    return stat["pf_taken"] == taken + 1


def add_a_slot(scene: Scene, gpa: int = 4 * GIB) -> None:
    """The guest gets memory."""
    scene.vm.add_memory(gpa, MIB)


def forget_in_the_vcpu(scene: Scene) -> None:
    """What the vCPU itself remembers of its last MMIO goes; the sptes stay."""
    scene.cpu.vcpu.mmio.gfn = Gfn(0)
    scene.cpu.vcpu.mmio.gva = 0


@pytest.mark.spec("fast-invalidation-of-mmio-sptes/stale-information/cached-in-leaf-sptes")
def test_an_access_without_memory_leaves_a_leaf_that_remembers(kernel: str, mmu: MmuKind) -> None:
    """It has the frame and the access. The next one is emulated without a look at the memslots."""
    scene = guest(kernel, mmu)
    assert slow(scene)

    spte = mmio_spte(scene)

    assert spte is not None
    assert spte.mmio_gfn == DEVICE >> 12
    assert (spte.writable, spte.user) == (True, True)
    forget_in_the_vcpu(scene)
    assert not slow(scene)


@pytest.mark.spec("fast-invalidation-of-mmio-sptes/stale-information/stale-after-memslot-change")
@pytest.mark.spec("fast-invalidation-of-mmio-sptes/check/on-every-find")
@pytest.mark.spec("reaction-to-events/mmio-fault-generation/checked")
@pytest.mark.spec("fast-invalidation-of-mmio-sptes/check/mismatch-slow-path")
def test_what_was_remembered_before_a_change_is_not_believed(
    kernel: str, mmu: MmuKind, picture: Camera
) -> None:
    """The frame gets memory. The spte is still there and says no; KVM goes the long way and maps it."""
    scene = guest(kernel, mmu)
    scene.reads(DEVICE)
    scene.vm.add_memory(DEVICE, MIB)
    scene.vm.memory.write(DEVICE, 77)
    assert mmio_spte(scene) is not None

    assert slow(scene)

    assert mmio_spte(scene) is None
    assert scene.reads(DEVICE) == 77
    picture(f"An MMIO spte of an old generation, {mmu.value}", scene.vm)


@pytest.mark.spec("fast-invalidation-of-mmio-sptes/stale-information/similar-technique", refutes=True)
def test_a_new_slot_takes_no_lock_and_touches_no_page(kernel: str, mmu: MmuKind) -> None:
    """Everything that was built is as before, and mmu_lock was not taken."""
    scene = guest(kernel, mmu)
    scene.reads(0x5000)
    scene.reads(DEVICE)
    pages = scene.vm.snapshot().pages

    taken: list[str] = []
    model = BrokenModel()

    def note(original: Callable[..., None]) -> Callable[..., None]:
        def acquire(hold: Hold) -> None:
            taken.append(hold.name)
            original(hold)

        return acquire

    model.wrap("kvm.locks.Hold.acquire", note)
    try:
        add_a_slot(scene)
    finally:
        model.restore()

    assert not [name for name in taken if "mmu_lock" in name]
    assert scene.vm.snapshot().pages == pages


@pytest.mark.spec("fast-invalidation-of-mmio-sptes/generation/stored-in-spare-bits")
def test_an_mmio_spte_has_the_generation(kernel: str, mmu: MmuKind) -> None:
    """In bits 3 to 10 and 52 to 62, as many as fit: 19."""
    scene = guest(kernel, mmu)
    scene.vm.kvm.memslots[0].generation = 0x1_2345_678A
    scene.reads(DEVICE)

    spte = mmio_spte(scene)

    assert spte is not None
    assert spte.raw >> 3 & 0xFF == 0x8A
    assert spte.raw >> 52 & 0x7FF == 0x567
    assert spte.mmio_generation == 0x1_2345_678A & (1 << 19) - 1


@pytest.mark.spec("fast-invalidation-of-mmio-sptes/generation/global-in-memslots")
def test_the_generation_grows_with_every_change(kernel: str) -> None:
    """A slot comes, a slot goes."""
    scene = guest(kernel, MmuKind.TDP)
    seen = [scene.vm.snapshot().memslot_generation[0]]
    add_a_slot(scene)
    seen.append(scene.vm.snapshot().memslot_generation[0])
    *_, last = scene.vm.kvm.memslots[0]
    scene.vm.remove_memory(last)
    seen.append(scene.vm.snapshot().memslot_generation[0])

    assert seen == sorted(set(seen))


@pytest.mark.spec("fast-invalidation-of-mmio-sptes/generation/global-in-memslots")
def test_each_address_space_has_a_generation(kernel: str) -> None:
    """Edge: that of SMM does not move when the other memory changes, and the two are never the same."""
    scene = guest(kernel, MmuKind.TDP)
    usual, smm = scene.vm.snapshot().memslot_generation

    add_a_slot(scene)

    assert scene.vm.snapshot().memslot_generation[1] == smm
    assert scene.vm.snapshot().memslot_generation[0] != usual
    assert usual % 2 != smm % 2


@pytest.mark.spec("fast-invalidation-of-mmio-sptes/overflow/18-bits-then-zap", refutes=True)
@pytest.mark.parametrize(("bits", "zapped"), [(18, False), (19, True), (20, True)])
def test_pages_go_when_19_bits_overflow(kernel: str, mmu: MmuKind, bits: int, zapped: bool) -> None:
    """At 2**18 nothing happens, and the spte keeps the bit; at multiples of 2**19 everything is zapped."""
    scene = guest(kernel, mmu)
    scene.vm.kvm.memslots[0].generation = (1 << bits) - 2
    scene.reads(DEVICE)

    add_a_slot(scene)

    assert scene.vm.snapshot().memslot_generation[0] == 1 << bits
    assert scene.vm.snapshot().mmu_valid_gen == int(zapped)
    scene.reads(DEVICE)
    spte = mmio_spte(scene)
    assert spte is not None
    assert spte.mmio_generation == (0 if zapped else 1 << 18)


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


def during_an_update(scene: Scene, act: Callable[[], None]) -> None:
    """Add a slot, and let the guest run before the update is over."""

    with before(UPDATE, act):
        add_a_slot(scene)


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
