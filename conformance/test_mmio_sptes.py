"""Section "Fast invalidation of MMIO sptes": what they remember, and when it is believed."""

from collections.abc import Callable

import pytest

from conformance.broken import BrokenModel
from conformance.looking import structs
from conformance.mmio import DEVICE, KINDS, add_a_slot, forget_in_the_vcpu, mmio_spte, slow
from conformance.pictures import Camera
from conformance.scenes import GIB, MIB, guest
from mmu_model.kvm.locks import Hold
from mmu_model.kvm.memory_region import move_memory_region, set_memory_region_flags
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind


@pytest.mark.spec("fast-invalidation-of-mmio-sptes/stale-information/cached-in-leaf-sptes")
@pytest.mark.parametrize(("mmu", "tdp_format"), KINDS)
def test_an_access_without_memory_leaves_a_leaf_that_remembers(
    kernel: str, mmu: MmuKind, tdp_format: TdpFormat
) -> None:
    """It has the frame and, but for EPT, the access. The next one is emulated without a look at the memslots."""
    scene = guest(kernel, mmu, tdp_format=tdp_format)
    assert slow(scene)

    spte = mmio_spte(scene)

    assert spte is not None
    assert spte.mmio_gfn == DEVICE >> 12
    if tdp_format is TdpFormat.NPT:
        assert (spte.writable, spte.user) == (True, True)
    forget_in_the_vcpu(scene)
    assert not slow(scene)


@pytest.mark.spec("fast-invalidation-of-mmio-sptes/stale-information/cached-in-leaf-sptes")
@pytest.mark.parametrize("flags", [0x65, 0x67, 0x63, 0x61])
def test_the_access_is_that_of_the_guests_entry(kernel: str, flags: int) -> None:
    """With shadow paging, where the guest's entry has W and U, or not."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: DEVICE}, mapped_flags=flags)
    scene.reads(0x5000)

    spte = mmio_spte(scene)

    assert spte is not None
    assert (spte.writable, spte.user) == (bool(flags & 2), bool(flags & 4))


@pytest.mark.spec("fast-invalidation-of-mmio-sptes/stale-information/cached-in-leaf-sptes")
@pytest.mark.parametrize(("mmu", "tdp_format"), KINDS)
def test_with_52_address_bits_only_ept_remembers(kernel: str, mmu: MmuKind, tdp_format: TdpFormat) -> None:
    """Edge: no bit of a paging entry is reserved, so there is no MMIO spte, and every access goes the long way."""
    scene = guest(kernel, mmu, maxphyaddr=52, tdp_format=tdp_format)

    seen = [slow(scene), slow(scene), slow(scene)]

    ept = tdp_format is TdpFormat.EPT
    assert (mmio_spte(scene) is not None) is ept
    assert seen == ([True, False, False] if ept else [True, True, True])


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


@pytest.mark.spec("fast-invalidation-of-mmio-sptes/stale-information/stale-after-memslot-change")
@pytest.mark.parametrize(("mmu", "tdp_format"), KINDS)
def test_a_slot_that_comes_to_the_frame_is_found(kernel: str, mmu: MmuKind, tdp_format: TdpFormat) -> None:
    """A slot that there was is moved to where the access was, with its contents."""
    scene = guest(kernel, mmu, memory={GIB: MIB}, tdp_format=tdp_format)
    scene.vm.memory.write(GIB, 77)
    scene.reads(DEVICE)
    slot = scene.vm.kvm.memslots[0].by_id(1)
    assert slot is not None

    move_memory_region(scene.vm.kvm, slot, DEVICE)

    assert scene.reads(DEVICE) == 77
    assert mmio_spte(scene) is None


@pytest.mark.spec("fast-invalidation-of-mmio-sptes/stale-information/stale-after-memslot-change")
@pytest.mark.parametrize(("mmu", "tdp_format"), KINDS)
def test_a_change_elsewhere_is_reason_enough(kernel: str, mmu: MmuKind, tdp_format: TdpFormat) -> None:
    """A slot begins to log writes. The spte is still there and as true as before; it is not believed, and made anew."""
    scene = guest(kernel, mmu, tdp_format=tdp_format)
    (slot,) = scene.vm.kvm.memslots[0]
    scene.reads(DEVICE)
    set_memory_region_flags(scene.vm.kvm, slot, KVM_MEM_LOG_DIRTY_PAGES)
    assert mmio_spte(scene) is not None

    seen = [slow(scene)]
    forget_in_the_vcpu(scene)
    seen.append(slow(scene))

    assert seen == [True, False]


@pytest.mark.spec("fast-invalidation-of-mmio-sptes/check/on-every-find")
@pytest.mark.spec("fast-invalidation-of-mmio-sptes/check/mismatch-slow-path")
@pytest.mark.parametrize(("mmu", "tdp_format"), KINDS)
def test_every_bit_that_an_spte_has_is_compared_each_time(
    kernel: str, mmu: MmuKind, tdp_format: TdpFormat
) -> None:
    """A generation that differs in one of 19 bits is another one: the access goes the long way, and the next does not.
    Edge: a difference above them is not seen."""
    scene = guest(kernel, mmu, tdp_format=tdp_format)
    slots = scene.vm.kvm.memslots[0]
    scene.reads(DEVICE)

    seen = []
    for bit in range(20):
        slots.generation ^= 1 << bit
        for _ in range(2):
            forget_in_the_vcpu(scene)
            seen.append(slow(scene))

    assert seen == [True, False] * 19 + [False, False]


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
@pytest.mark.parametrize(("mmu", "tdp_format"), KINDS)
def test_an_mmio_spte_has_the_generation(kernel: str, mmu: MmuKind, tdp_format: TdpFormat) -> None:
    """In bits 3 to 10 and 52 to 62, as many as fit: 19."""
    scene = guest(kernel, mmu, tdp_format=tdp_format)
    scene.vm.kvm.memslots[0].generation = 0x1_2345_678A
    scene.reads(DEVICE)

    spte = mmio_spte(scene)

    assert spte is not None
    assert spte.raw >> 3 & 0xFF == 0x8A
    assert spte.raw >> 52 & 0x7FF == 0x567
    assert spte.mmio_generation == 0x1_2345_678A & (1 << 19) - 1


@pytest.mark.spec("fast-invalidation-of-mmio-sptes/generation/stored-in-spare-bits")
@pytest.mark.parametrize(("mmu", "tdp_format"), KINDS)
def test_those_bits_have_nothing_but_the_generation(kernel: str, mmu: MmuKind, tdp_format: TdpFormat) -> None:
    """They are all clear for generation 0, they are all set for one of all ones, and no other bit differs."""
    words = []
    for generation in (0, (1 << 62) - 1):
        scene = guest(kernel, mmu, tdp_format=tdp_format)
        scene.vm.kvm.memslots[0].generation = generation
        scene.reads(DEVICE)
        spte = mmio_spte(scene)
        assert spte is not None
        words.append(spte.raw)

    spare = 0xFF << 3 | 0x7FF << 52
    assert words[0] & spare == 0
    assert words[0] ^ words[1] == spare


@pytest.mark.spec("fast-invalidation-of-mmio-sptes/generation/global-in-memslots")
def test_the_generation_grows_with_every_change(kernel: str) -> None:
    """A slot comes, it logs writes and does not any more, it is moved, it goes."""
    scene = guest(kernel, MmuKind.TDP)
    vm = scene.vm
    seen = [vm.snapshot().memslot_generation[0]]

    slot = vm.add_memory(4 * GIB, MIB)
    seen.append(vm.snapshot().memslot_generation[0])
    for flags in (KVM_MEM_LOG_DIRTY_PAGES, 0):
        set_memory_region_flags(vm.kvm, slot, flags)
        seen.append(vm.snapshot().memslot_generation[0])
    slot = move_memory_region(vm.kvm, slot, 5 * GIB)
    seen.append(vm.snapshot().memslot_generation[0])
    vm.remove_memory(slot)
    seen.append(vm.snapshot().memslot_generation[0])

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
    scene.reads(0x5000)
    old = set(structs(scene.vm))

    add_a_slot(scene)

    assert scene.vm.snapshot().memslot_generation[0] == 1 << bits
    assert scene.vm.snapshot().mmu_valid_gen == int(zapped)
    scene.reads(DEVICE)
    left = old & set(structs(scene.vm))
    spte = mmio_spte(scene)
    assert spte is not None
    assert spte.mmio_generation == (0 if zapped else 1 << 18)
    assert left == (set() if zapped else old)


@pytest.mark.spec("fast-invalidation-of-mmio-sptes/overflow/18-bits-then-zap", refutes=True)
@pytest.mark.parametrize(("bits", "zapped"), [(18, False), (19, True)])
def test_pages_go_when_the_generations_of_smm_overflow(
    kernel: str, mmu: MmuKind, bits: int, zapped: bool
) -> None:
    """They are odd, so that none of them is a multiple: bit 0 says whose they are, and does not count."""
    scene = guest(kernel, mmu)
    scene.reads(0x5000)
    scene.vm.kvm.memslots[1].generation = (1 << bits) - 1

    scene.vm.add_memory(0, MIB, as_id=1)

    assert scene.vm.kvm.memslots[1].generation == (1 << bits) + 1
    assert scene.vm.snapshot().mmu_valid_gen == int(zapped)
