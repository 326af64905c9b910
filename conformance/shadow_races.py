"""What a vCPU reads of shadow pages without mmu_lock while who holds it changes them: actors for the explorer."""

from conformance.looking import backing, structs
from conformance.races.actors import zaps_all
from conformance.scenes import Scene, guest
from mmu_model.hardware import PAGE_SHIFT, Gfn, Pfn
from mmu_model.kvm import shadow_walk
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.roots import serve_requests
from mmu_model.kvm.shadow_walk import reading_shadow_page_tables
from mmu_model.kvm.spte import SPTE_BASE_ADDR_MASK, is_shadow_present_pte
from mmu_model.kvm.task import Steps, finish
from mmu_model.kvm.types import PG_LEVEL_4K, Sptep
from mmu_model.kvm.vcpu import VcpuMode
from mmu_model.machine import VirtualMachine
from mmu_model.schedule import Race
from mmu_model.shadow import sptes
from mmu_model.snapshot import MmuKind

TOUCHED = 0x5000
MAXPHYADDR = 36
"""A 32-bit host with 64 GiB: frames whose addresses differ in the high half of an spte only."""


def touched_page(kernel: str, *, x86_64: bool = False) -> Scene:
    """A guest without paging, under shadow paging, that has touched one page."""
    scene = guest(kernel, MmuKind.SHADOW, maxphyaddr=MAXPHYADDR, x86_64=x86_64)
    scene.cpu.read(TOUCHED)
    return scene


def leaf(vm: VirtualMachine) -> Sptep:
    """Where the spte of the page is."""
    gfn = TOUCHED >> PAGE_SHIFT
    (sp,) = (sp for sp in structs(vm) if sp.role.level == PG_LEVEL_4K and sp.gfn <= gfn < sp.gfn + 512)
    return sp.sptep(gfn - sp.gfn)


def moved(vm: VirtualMachine, spte: int) -> int:
    """The same spte for a frame 4 GiB further on: only the high half is another."""
    pfn = backing(vm, Gfn(TOUCHED >> PAGE_SHIFT))
    assert pfn is not None
    return spte & ~SPTE_BASE_ADDR_MASK | Pfn(pfn + (1 << 20)) << PAGE_SHIFT


def replaces(vm: VirtualMachine, sptep: Sptep, spte: int) -> Steps[None]:
    """KVM makes an spte map another frame: clears it, then sets it."""
    yield from vm.kvm.mmu_lock.write.wait()
    with vm.kvm.mmu_lock.write:
        yield from sptes.replace_spte(vm.kvm, sptep, spte)


def walks(scene: Scene, into: list[int]) -> Steps[None]:
    """The vCPU looks for what an address is mapped to, without the lock."""
    with reading_shadow_page_tables(scene.cpu.vcpu):
        found = yield from shadow_walk.last_spte_lockless(scene.cpu.vcpu, TOUCHED)
    if found is not None:
        into.append(found[1])


def walk_against_replacement(kernel: str) -> Race:
    """A vCPU reads an spte while it is made to map another frame."""
    scene = touched_page(kernel)
    vm, seen = scene.vm, list[int]()
    sptep = leaf(vm)
    old = vm.host.read(sptep)
    new = moved(vm, old)

    def whole(spte: int) -> None:
        if is_shadow_present_pte(spte):
            assert spte in (old, new), f"half an spte is seen: {spte:#x} is neither {old:#x} nor {new:#x}"

    def at_end() -> None:
        for spte in seen:
            whole(spte)

    actors = {"vcpu": walks(scene, seen), "kvm": replaces(vm, sptep, new)}
    return Race(actors, always=lambda: whole(vm.host.read(sptep)), at_end=at_end)


def walk_against_zap(kernel: str) -> Race:
    """A vCPU walks shadow pages while all of them are zapped: what it reads must be there until it is through."""
    scene = guest(kernel, MmuKind.DIRECT, x86_64=False)
    scene.cpu.read(TOUCHED)
    finish(serve_requests(scene.cpu.vcpu))
    at_its_begin: list[KvmMmuPage] = []

    def always() -> None:
        if scene.cpu.vcpu.mode is not VcpuMode.READING_SHADOW_PAGE_TABLES:
            return
        at_its_begin.extend(structs(scene.vm) if not at_its_begin else ())
        assert at_its_begin == structs(scene.vm), "a page is freed while a vCPU walks shadow pages"

    actors = {"vcpu": walks(scene, []), "process": zaps_all(scene.vm)}
    return Race(actors, always=always, at_end=lambda: finish(serve_requests(scene.cpu.vcpu)))
