"""What KVM reads out of the bits of an spte, and keeps in them (spte.h, spte.c)."""

import pytest

from conformance.kvm import somebody
from conformance.looking import reached
from conformance.scenes import MIB, Scene, guest, nested_guest
from mmu_model.hardware.types import Pfn
from mmu_model.kvm.locks import LockNotFree
from mmu_model.kvm.spte import (
    MMIO_SPTE_GEN_MASK,
    SpteMasks,
    ept_masks,
    make_mmio_spte,
    paging_masks,
    spte_ad_enabled,
)
from mmu_model.kvm.task import WouldWaitForEver
from mmu_model.kvm.vm import TdpFormat
from mmu_model.kvm.vmx import construct_eptp
from mmu_model.machine import Cpu, VirtualMachine
from mmu_model.snapshot import MmuKind

R, W, X = 1, 2, 4
PAGING = paging_masks(46)
EPT = ept_masks(has_ad_bits=True, suppress_ve=False)
WITHOUT_AD = ept_masks(has_ad_bits=False, suppress_ve=False)
NO_FLAGS, PROTECT_ONLY = 1 << 52, 2 << 52
"""SPTE_TDP_AD_*: the processor sets no flags; it does, and yet writes are to be noticed by W."""

tracked = pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT], ids=lambda kind: kind.value)


def spte_of(scene: Scene, gfn: int) -> int:
    """The leaf spte for a frame."""
    return next(int(leaf.spte.raw) for leaf in reached(scene.vm.snapshot()) if leaf.offset == gfn)


def age(scene: Scene, gfn: int) -> bool:
    """The host asks whether a page was used."""
    slot = scene.vm.kvm.memslots[0].find(gfn)
    assert slot is not None
    return scene.vm.process.was_used(slot.hva(gfn), 1)


@tracked
def test_use_is_noticed_where_the_processor_does_not_note_it(kernel: str, mmu: MmuKind) -> None:
    """An spte that was aged grants nothing, and keeps R and X in bits 54 and 56; the next use gives them back,
    W only if it is a write."""
    scene = guest(kernel, mmu, tdp_format=TdpFormat.EPT_WITHOUT_AD)
    seen = []
    for act in ("write", "age", "age", "read", "age", "write"):
        if act == "age":
            age(scene, 5)
        elif act == "read":
            scene.cpu.read(0x5000)
        else:
            scene.cpu.write(0x5000, 1)
        spte = spte_of(scene, 5)
        seen.append((spte & 7, spte >> 54 & 7))

    aged, read, written = (0, R | X), (R | X, 0), (R | W | X, 0)
    assert seen == [written, aged, aged, read, aged, written]


@tracked
@pytest.mark.parametrize("kind", ["read", "write", "fetch"])
def test_any_use_of_what_was_aged_needs_no_lock(kernel: str, mmu: MmuKind, kind: str) -> None:
    scene = guest(kernel, mmu, tdp_format=TdpFormat.EPT_WITHOUT_AD)
    scene.cpu.write(0x5000, 7)
    age(scene, 5)
    scene.cpu.vcpu.stat.clear()

    with somebody.has(scene.vm.kvm.mmu_lock.write):
        if kind == "write":
            scene.cpu.write(0x5000, 7)
        else:
            assert getattr(scene.cpu, kind)(0x5000) == 7

    assert scene.cpu.vcpu.stat["pf_fast"] == 1
    assert age(scene, 5)


@tracked
def test_a_fetch_from_what_may_not_be_executed_needs_the_lock(kernel: str, mmu: MmuKind) -> None:
    """Also if it was aged: a large page, with nx_huge_pages on. There is no X to be given back."""
    vm = VirtualMachine(kernel, mmu, tdp_format=TdpFormat.EPT_WITHOUT_AD, nx_huge_pages=True)
    slot = vm.add_memory(0, 4 * MIB, level=2)
    cpu = vm.add_cpu()
    cpu.write(0x5000, 7)
    vm.process.was_used(slot.hva(5), 1)

    with somebody.has(vm.kvm.mmu_lock.write), pytest.raises((LockNotFree, WouldWaitForEver)):
        cpu.fetch(0x5000)

    assert cpu.fetch(0x5000) == 7


@pytest.mark.parametrize(
    ("masks", "spte", "accessed", "dirty"),
    [
        (PAGING, R | W, False, False),
        (PAGING, R | W | 1 << 5, True, False),
        (PAGING, R | W | 1 << 6, False, True),
        (EPT, R | W | 1 << 8, True, False),
        (EPT, R | W | 1 << 9, False, True),
        (PAGING, R | W | PAGING.accessed, True, False),
        (PAGING, R | PAGING.accessed | PAGING.dirty, True, True),
        (EPT, R | W | EPT.dirty, False, True),
        (EPT, R | EPT.accessed, True, False),
        (EPT, R | W | PROTECT_ONLY, False, False),
        (EPT, R | W | PROTECT_ONLY | EPT.accessed | EPT.dirty, True, True),
        (EPT, R | NO_FLAGS, True, False),
        (EPT, R | W | NO_FLAGS, True, True),
        (EPT, NO_FLAGS, False, False),
        (WITHOUT_AD, R | W | NO_FLAGS, True, True),
        (WITHOUT_AD, R | NO_FLAGS, True, False),
        (WITHOUT_AD, NO_FLAGS | R << 54, False, False),
    ],
)
def test_whether_a_page_was_used(masks: SpteMasks, spte: int, accessed: bool, dirty: bool) -> None:
    """By flags, where they count; otherwise by what the spte permits."""
    assert (masks.is_accessed(spte), masks.is_dirty(spte)) == (accessed, dirty)
    assert spte_ad_enabled(spte) is not bool(spte & NO_FLAGS)


@pytest.mark.parametrize(
    ("masks", "spte", "volatile"),
    [
        (PAGING, R | PAGING.accessed, False),
        (PAGING, R, True),
        (PAGING, R | W | PAGING.accessed, True),
        (PAGING, R | W | PAGING.accessed | PAGING.dirty, False),
        (PAGING, R | PAGING.accessed | PAGING.mmu_writable, True),
        (PAGING, R | W | PAGING.accessed | PAGING.dirty | PAGING.mmu_writable, False),
        (EPT, R | NO_FLAGS, False),
        (EPT, NO_FLAGS, True),
        (WITHOUT_AD, R | W | NO_FLAGS, False),
        (WITHOUT_AD, R | NO_FLAGS | WITHOUT_AD.mmu_writable, True),
        (WITHOUT_AD, NO_FLAGS, True),
    ],
)
def test_what_may_change_without_the_lock(masks: SpteMasks, spte: int, volatile: bool) -> None:
    """The processor sets flags; a fast page fault gives W back where no table forbids it, or what was taken to
    notice a use (spte.c: spte_has_volatile_bits)."""
    assert masks.has_volatile_bits(spte) is volatile


@pytest.mark.parametrize(
    ("generation", "bits"),
    [(1, 1 << 3), (1 << 7, 1 << 10), (1 << 8, 1 << 52), (1 << 18, 1 << 62), (1 << 19, 0), (0, 0)],
)
@pytest.mark.parametrize("masks", [PAGING, EPT], ids=["paging", "EPT"])
def test_an_mmio_spte_keeps_19_bits_of_the_generation(masks: SpteMasks, generation: int, bits: int) -> None:
    """In bits 10:3 and 62:52; besides it has the frame, and access as far as the format has room for it."""
    spte = make_mmio_spte(masks, generation, 0x12345, 7)
    kept = 6 if masks is PAGING else 0

    assert masks.is_mmio(spte)
    assert spte & ~masks.mmio_value == bits | 0x1234_5000 | kept
    assert MMIO_SPTE_GEN_MASK == 0x7FFFF


def test_no_spte_is_one_of_mmio_without_a_reserved_bit() -> None:
    """A processor with 52 physical-address bits has none to spare."""
    masks = paging_masks(52)
    assert not any(masks.is_mmio(spte) for spte in (0, 1, 1 << 51 | 1, make_mmio_spte(masks, 0, 5, 7)))
    assert paging_masks(51).is_mmio(1 << 51 | 1)


@pytest.mark.parametrize("masks", [PAGING, EPT, WITHOUT_AD], ids=["paging", "EPT", "EPT without flags"])
def test_an_spte_for_the_frame_that_replaces_another(masks: SpteMasks) -> None:
    """Nobody may write to it, nor has used it; what else the spte says stays."""
    flags = NO_FLAGS if masks is WITHOUT_AD else masks.accessed | masks.dirty
    other = 1 << 11 | masks.x | masks.user | masks.present
    spte = other | flags | 0x7000 | W | masks.host_writable | masks.mmu_writable

    changed = masks.changed_pte(spte, Pfn(0x55))

    assert (changed & (1 << 52) - 0x1000, changed & W) == (0x5_5000, 0)
    assert not masks.is_accessed(changed)
    assert not changed & (masks.host_writable | masks.mmu_writable)
    assert masks.is_dirty(changed) is bool(masks.dirty)


def eptp(cpu: Cpu) -> int:
    """The EPTP, but for the root."""
    cpu.read(0x5000)
    return construct_eptp(cpu.vcpu) & 0xFFF


@tracked
@pytest.mark.parametrize(
    ("tdp_format", "bits"), [(TdpFormat.EPT, 6 | 3 << 3 | 1 << 6), (TdpFormat.EPT_WITHOUT_AD, 6 | 3 << 3)]
)
def test_what_the_processor_is_told_of_the_ept(mmu: MmuKind, tdp_format: TdpFormat, bits: int) -> None:
    """Write-back, levels less one, and whether it sets flags: for nested guests, if their hypervisor wants it
    (SDM vol. 3, 25.6.11)."""
    assert eptp(guest("6.12", mmu, tdp_format=tdp_format).cpu) == bits
    five = guest("6.12", mmu, tdp_format=tdp_format, maxphyaddr=52, max_tdp_level=5)
    assert eptp(five.cpu) == bits + (1 << 3)
    nested = nested_guest("6.12", mmu, mapped={0x5000: 0x6000}, tdp_format=tdp_format)
    assert eptp(nested.cpu) == bits
    nested.cpu.leave_nested()
    nested.cpu.enter_nested(None, nested.cpu.vcpu.registers)
    nested.cpu.read(32 * MIB)
    assert construct_eptp(nested.cpu.vcpu) & 0xFFF == 6 | 3 << 3
