"""Dirty logging: a page that changed after the process copied it is in the log, or will be."""

from typing import Final

from conformance.looking import backing
from conformance.races.actors import TOUCHED, WRITE_PROTECTED, faults, harvests, writes
from conformance.races.truths import leaf, whole
from conformance.scenes import GIB, MIB, PAGE, Scene, guest
from mmu_model.hardware import PAGE_SHIFT, Gfn
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES, KvmMemorySlot
from mmu_model.kvm.notifier import clear_flush_young, invalidate_range_start
from mmu_model.kvm.spte import PT_DIRTY_MASK, is_shadow_present_pte, is_writable_pte
from mmu_model.kvm.task import Steps, finish
from mmu_model.kvm.types import Hva
from mmu_model.kvm.vm import TdpFormat
from mmu_model.machine import VirtualMachine
from mmu_model.schedule import Race
from mmu_model.snapshot import MmuKind
from mmu_model.tdp.protect import kvm_tdp_mmu_clear_dirty_pt_masked

GFN: Final = Gfn(TOUCHED >> PAGE_SHIFT)


def logged_page(kernel: str, *, pml: bool = False) -> tuple[Scene, KvmMemorySlot]:
    """A guest whose writes are logged has written to a page."""
    scene = guest(kernel, MmuKind.TDP, tdp_format=TdpFormat.EPT if pml else TdpFormat.NPT, pml=pml)
    slot = scene.vm.add_memory(GIB, MIB, flags=KVM_MEM_LOG_DIRTY_PAGES)
    scene.cpu.write(GIB, 1)
    return scene, slot


def fast_page_fault_against_log(kernel: str) -> Race:
    """The guest writes again, which needs no lock, while the log is fetched a second time."""
    scene, slot = logged_page(kernel)
    finish(harvests(scene.vm, slot, {}))

    def at_end() -> None:
        whole(scene.vm)
        if is_writable_pte(scene.vm.host.read(leaf(scene.vm, GIB))):
            assert slot.dirty_bitmap, "the guest can write to a page, and the log does not know"

    actors = {
        "vcpu": faults(scene.cpu.vcpu, GIB, WRITE_PROTECTED),
        "process": harvests(scene.vm, slot, {}),
    }
    return Race(actors, at_end=at_end)


def clearing_w_against_write(kernel: str) -> Race:
    """The guest writes twice, by what is in its TLB or by a fault, while the log is fetched: W is taken away."""
    return _clearing_against_write(kernel, pml=False)


def clearing_d_against_write(kernel: str) -> Race:
    """The same where the processor logs writes: D is taken away."""
    return _clearing_against_write(kernel, pml=True)


def _clearing_against_write(kernel: str, *, pml: bool) -> Race:
    scene, slot = logged_page(kernel, pml=pml)
    gfn, copies = Gfn(GIB >> PAGE_SHIFT), dict[Gfn, int]()

    def at_end() -> None:
        whole(scene.vm)
        assert slot.dirty_bitmap is not None
        if scene.vm.memory.read(GIB) != copies.get(gfn):
            assert gfn in slot.dirty_bitmap, (
                "a page was written after it was copied, and the log does not know"
            )

    actors = {
        "vcpu": writes(scene.cpu, GIB, 2, 3),
        "process": harvests(scene.vm, slot, copies),
    }
    return Race(actors, at_end=at_end)


def clean_page(kernel: str) -> Scene:
    """A guest has written to a page, and the host has made the page clean."""
    scene = guest(kernel, MmuKind.TDP)
    vm = scene.vm
    scene.cpu.write(TOUCHED, 1)
    (slot,) = vm.kvm.memslots[0]
    with vm.kvm.mmu_lock.write:
        finish(kvm_tdp_mmu_clear_dirty_pt_masked(vm.kvm, slot, [GFN], wrprot=False))
    vm.host.dirty.clear()
    return scene


def processor_writes(vm: VirtualMachine, wrote: list[int | None]) -> Steps[None]:
    """A processor that is in the guest sets D in the spte of the page, which needs no lock."""
    sptep, pfn = leaf(vm, TOUCHED), backing(vm, GFN)
    yield "walks the tables"
    spte = vm.host.read(sptep)
    if is_shadow_present_pte(spte) and is_writable_pte(spte):
        vm.host.write(sptep, spte | PT_DIRTY_MASK)
        wrote.append(pfn)
    yield "has written"


def dirty_flag_against_zap(kernel: str) -> Race:
    """The processor sets D while the host takes the page away."""
    vm, wrote = clean_page(kernel).vm, list[int | None]()
    (slot,) = vm.kvm.memslots[0]

    def at_end() -> None:
        assert set(wrote) <= vm.host.dirty, "the host does not know that a frame was written"

    host = invalidate_range_start(vm.kvm, slot.hva(GFN), Hva(slot.hva(GFN) + PAGE))
    return Race({"processor": processor_writes(vm, wrote), "host": host}, at_end=at_end)


def dirty_flag_against_aging(kernel: str) -> Race:
    """The processor sets D while the host asks whether the page was used, which takes A away."""
    vm, wrote = clean_page(kernel).vm, list[int | None]()
    (slot,) = vm.kvm.memslots[0]

    def at_end() -> None:
        if wrote:
            assert vm.kvm.masks.is_dirty(vm.host.read(leaf(vm, TOUCHED))), (
                "the spte forgot that it was written"
            )

    host = clear_flush_young(vm.kvm, slot.hva(GFN), Hva(slot.hva(GFN) + PAGE))
    return Race({"processor": processor_writes(vm, wrote), "host": host}, at_end=at_end)
