"""What vCPUs, the process and the host do to one VM at the same time: actors for the explorer.

Each function makes a VM in which something is about to happen, and says what must be true whatever the order.
"""

from collections.abc import Callable, Iterator
from typing import Final

from conformance.looking import backing, structs
from conformance.scenes import GIB, MIB, PAGE, Scene, guest
from mmu_model.hardware import PAGE_SHIFT, Gfn
from mmu_model.kvm import zap_all
from mmu_model.kvm.fault import PFERR_PRESENT_MASK, PFERR_USER_MASK, PFERR_WRITE_MASK, KvmPageFault, RetPf
from mmu_model.kvm.memory_region import create_slot, replace_slot
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES, KvmMemorySlot
from mmu_model.kvm.mmio import check_mmio_spte, mmio_info_in_cache
from mmu_model.kvm.notifier import invalidate_range_end, invalidate_range_start
from mmu_model.kvm.page import KvmMmuPage, spte_to_child_sp
from mmu_model.kvm.page_fault import kvm_mmu_page_fault
from mmu_model.kvm.roots import kvm_mmu_free_roots, serve_requests
from mmu_model.kvm.spte import (
    PT_DIRTY_MASK,
    is_last_spte,
    is_shadow_present_pte,
    is_writable_pte,
    spte_to_pfn,
)
from mmu_model.kvm.task import Spin, Steps, finish
from mmu_model.kvm.types import PG_LEVEL_2M, PG_LEVEL_4K, Hva, Sptep
from mmu_model.kvm.vcpu import KvmVcpu
from mmu_model.machine import Cpu, VirtualMachine
from mmu_model.schedule import Race
from mmu_model.snapshot import MmuKind
from mmu_model.tdp.changed import PAGES_STAT
from mmu_model.tdp.map import kvm_tdp_mmu_page_fault
from mmu_model.tdp.protect import kvm_tdp_mmu_clear_dirty_pt_masked

READ: Final = PFERR_USER_MASK
WRITE_PROTECTED: Final = PFERR_USER_MASK | PFERR_WRITE_MASK | PFERR_PRESENT_MASK
TOUCHED: Final = 0x5000


# What actors do.


def faults(vcpu: KvmVcpu, gpa: int, error_code: int = READ, max_level: int | None = None) -> Steps[None]:
    """KVM_RUN: the vCPU serves its requests and faults at an address, until the fault is dealt with."""
    while True:
        with vcpu.kvm.srcu.read:
            yield from serve_requests(vcpu)
            fault = KvmPageFault(gpa, error_code, prefetch=False, is_tdp=True, nx_huge_pages=False)
            fault.gfn = Gfn(gpa >> PAGE_SHIFT)
            fault.slot = vcpu.memslots.find(fault.gfn)
            fault.max_level = max_level or fault.max_level
            result = yield from kvm_tdp_mmu_page_fault(vcpu, fault)
        if result is not RetPf.RETRY:
            return
        yield Spin("the fault")


def any_fault(vcpu: KvmVcpu, address: int) -> Steps[None]:
    """The same with whatever MMU, where nobody comes in between while the lock is held."""
    while True:
        with vcpu.kvm.srcu.read:
            yield from serve_requests(vcpu)
            yield from vcpu.kvm.mmu_lock.write.wait()
            result = kvm_mmu_page_fault(vcpu, address, READ)
        if result is not RetPf.RETRY:
            return
        yield Spin("the fault")


def obtains_root(vcpu: KvmVcpu) -> Steps[None]:
    """The vCPU needs a root to enter the guest."""
    yield from serve_requests(vcpu)


def lets_go(vcpu: KvmVcpu) -> Steps[None]:
    """The vCPU lets go of its root."""
    yield from kvm_mmu_free_roots(vcpu.kvm, vcpu.root_mmu, [vcpu.root_mmu.root])


def migrates(vm: VirtualMachine, hva: Hva) -> Steps[None]:
    """The host moves a page of the process."""
    end = Hva(hva + PAGE)
    yield from invalidate_range_start(vm.kvm, hva, end)
    yield "moves the page"
    vm.process.migrate(hva)
    yield from invalidate_range_end(vm.kvm, hva, end)


def harvests(vm: VirtualMachine, slot: KvmMemorySlot, into: set[Gfn]) -> Steps[None]:
    """KVM_GET_DIRTY_LOG: fetch the bitmap, and see to it that the next write is noticed again."""
    assert slot.dirty_bitmap is not None
    yield from vm.kvm.mmu_lock.write.wait()
    with vm.kvm.mmu_lock.write:
        dirty = set(slot.dirty_bitmap)
        slot.dirty_bitmap.clear()
        into |= dirty
        yield from kvm_tdp_mmu_clear_dirty_pt_masked(vm.kvm, slot, dirty, wrprot=True)
    vm.kvm.flush_remote_tlbs()


def zaps_all(vm: VirtualMachine) -> Steps[None]:
    """Everything that KVM has built is to go, as when a slot does."""
    yield from vm.kvm.slots_lock.wait()
    with vm.kvm.slots_lock:
        yield from zap_all.kvm_mmu_zap_all_fast(vm.kvm)


# What must be true.


def leafs(vm: VirtualMachine) -> Iterator[tuple[KvmMmuPage, int, int]]:
    """All present leaf sptes of pages of the TDP MMU: page, index, spte."""
    for sp in structs(vm):
        for index, spte in enumerate(vm.host.words(sp.spt)):
            if sp.tdp_mmu_page and is_shadow_present_pte(spte) and is_last_spte(spte, sp.role.level):
                yield sp, index, spte


def whole(vm: VirtualMachine) -> None:
    """Every page of the TDP MMU is reached from a root, once, and all that is counted is right."""
    kvm = vm.kvm
    reached = list(kvm.tdp_mmu_roots)
    for sp in reached:
        for index, spte in enumerate(vm.host.words(sp.spt)):
            if is_shadow_present_pte(spte) and not is_last_spte(spte, sp.role.level):
                child = spte_to_child_sp(vm.host, spte)
                assert child.ptep == sp.sptep(index), "a page does not point back at its spte"
                reached.append(child)
    there = [sp for sp in structs(vm) if sp.tdp_mmu_page]
    assert len(reached) == len(set(reached)), "a page is reached twice"
    assert set(there) == set(reached), f"{len(there)} pages exist, {len(reached)} are reached"
    assert kvm.tdp_mmu_pages == len(reached) - len(kvm.tdp_mmu_roots), "tdp_mmu_pages is wrong"
    for level, name in PAGES_STAT.items():
        count = sum(sp.role.level == level for sp, _, _ in leafs(vm))
        assert kvm.stat[name] == count, f"{name} is {kvm.stat[name]}, there are {count}"


def maps_what_the_host_does(vm: VirtualMachine, gpa: int) -> None:
    """What is mapped at an address is the frame that the process has there now."""
    gfn = gpa >> PAGE_SHIFT
    for sp, index, spte in leafs(vm):
        if sp.role.level == PG_LEVEL_4K and sp.gfn + index == gfn:
            assert spte_to_pfn(spte) == backing(vm, gfn), "an spte maps a frame that the process has not"


def leaf(vm: VirtualMachine, gpa: int) -> Sptep:
    """Where the spte of level 1 for an address is."""
    gfn = gpa >> PAGE_SHIFT
    (found,) = (
        sp.sptep(gfn - sp.gfn)
        for sp in structs(vm)
        if sp.role.level == PG_LEVEL_4K and 0 <= gfn - sp.gfn < 512
    )
    return found


def two_vcpus(kernel: str, *, loaded: bool = True, host_level: int = PG_LEVEL_4K) -> tuple[Scene, Cpu]:
    """A VM of the TDP MMU with a second vCPU; both have a root if `loaded`."""
    scene = guest(kernel, MmuKind.TDP, host_level=host_level)
    second = scene.vm.add_cpu()
    if loaded:
        for cpu in (scene.cpu, second):
            finish(serve_requests(cpu.vcpu))
    return scene, second


# The races.


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


def dirty_log_scene(kernel: str) -> tuple[Scene, KvmMemorySlot]:
    """A guest whose writes are logged has written to a page, and the log has been fetched."""
    scene = guest(kernel, MmuKind.TDP)
    slot = scene.vm.add_memory(GIB, MIB, flags=KVM_MEM_LOG_DIRTY_PAGES)
    scene.cpu.write(GIB, 1)
    finish(harvests(scene.vm, slot, set()))
    return scene, slot


def fast_page_fault_against_log(kernel: str) -> Race:
    """The guest writes again, which needs no lock, while the log is fetched a second time."""
    scene, slot = dirty_log_scene(kernel)

    def at_end() -> None:
        whole(scene.vm)
        if is_writable_pte(scene.vm.host.read(leaf(scene.vm, GIB))):
            assert slot.dirty_bitmap, "the guest can write to a page, and the log does not know"

    actors = {
        "vcpu": faults(scene.cpu.vcpu, GIB, WRITE_PROTECTED),
        "process": harvests(scene.vm, slot, set()),
    }
    return Race(actors, at_end=at_end)


def dirty_flag_against_zap(kernel: str) -> Race:
    """The processor sets D in an spte, which needs no lock, while the host takes the page away."""
    scene = guest(kernel, MmuKind.TDP)
    vm = scene.vm
    scene.cpu.write(TOUCHED, 1)
    (slot,) = vm.kvm.memslots[0]
    gfn = Gfn(TOUCHED >> PAGE_SHIFT)
    with vm.kvm.mmu_lock.write:
        finish(kvm_tdp_mmu_clear_dirty_pt_masked(vm.kvm, slot, [gfn], wrprot=False))
    vm.host.dirty.clear()
    sptep, pfn, wrote = leaf(vm, TOUCHED), backing(vm, gfn), []

    def processor() -> Steps[None]:
        yield "walks the tables"
        spte = vm.host.read(sptep)
        if is_shadow_present_pte(spte) and is_writable_pte(spte):
            vm.host.write(sptep, spte | PT_DIRTY_MASK)
            wrote.append(pfn)
        yield "has written"

    def at_end() -> None:
        assert set(wrote) <= vm.host.dirty, "the host does not know that a frame was written"

    host = invalidate_range_start(vm.kvm, slot.hva(gfn), Hva(slot.hva(gfn) + PAGE))
    return Race({"processor": processor(), "host": host}, at_end=at_end)


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


RACES: Final[tuple[Callable[[str], Race], ...]] = (
    two_faults_on_one_gfn,
    huge_page_against_small,
    fault_against_notifier,
    fast_page_fault_against_log,
    dirty_flag_against_zap,
    two_root_allocations,
    references_come_and_go,
    last_reference_against_iteration,
    fault_against_zap,
    fast_zap_against_vcpu,
    mmio_against_new_memory,
)
"""All of them."""
