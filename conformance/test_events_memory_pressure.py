"""Section "Events": the host is short of memory."""

import pytest

from conformance.looking import structs
from conformance.scenes import GIB, Scene, guest
from mmu_model.kvm.host import Host
from mmu_model.machine import VirtualMachine
from mmu_model.snapshot import MmuKind

PRESSURE = "events/memory-pressure/shrinker"


def shadowed(kernel: str, host: Host | None = None) -> Scene:
    """A guest under shadow paging that has used eight places, each by tables of its own below the first three
    levels."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={n * GIB: 0x6000 for n in range(1, 9)}, host=host)
    scene.vm.memory.write(0x6000, 77)
    assert {scene.reads(n * GIB) for n in range(1, 9)} == {77}
    return scene


@pytest.mark.spec(PRESSURE)
@pytest.mark.parametrize("wanted", [1, 5])
def test_memory_pressure_takes_the_oldest_shadow_pages(kernel: str, wanted: int) -> None:
    """The host asks for so many things: so many pages go, the oldest first, but not a root in use. The guest notices
    nothing."""
    scene = shadowed(kernel)
    before = list(scene.vm.kvm.active_mmu_pages)

    freed = scene.vm.host.shrink_slab(wanted)

    roots = [sp for sp in before if sp.root_count]
    others = [sp for sp in before if not sp.root_count]
    assert freed == wanted
    assert len(roots) == 1 and list(scene.vm.kvm.active_mmu_pages) == roots + others[wanted:]
    assert not set(structs(scene.vm)) & set(others[:wanted])
    assert {scene.reads(n * GIB) for n in range(1, 9)} == {77}


@pytest.mark.spec(PRESSURE)
def test_memory_pressure_leaves_roots_in_use(kernel: str) -> None:
    """Edge: everything is asked for."""
    scene = shadowed(kernel)
    others = [sp for sp in scene.vm.kvm.active_mmu_pages if not sp.root_count]

    freed = scene.vm.host.shrink_slab(1000)

    assert freed == len(others)
    assert [sp.root_count for sp in scene.vm.kvm.active_mmu_pages] == [1]
    assert {scene.reads(n * GIB) for n in range(1, 9)} == {77}


@pytest.mark.spec(PRESSURE)
def test_memory_pressure_turns_from_one_vm_to_the_next(kernel: str) -> None:
    """Three VMs of one host, of which the second has no shadow pages: the others give in turns."""
    first = shadowed(kernel)
    host = first.vm.host
    VirtualMachine(kernel, MmuKind.SHADOW, host=host)
    third = shadowed(kernel, host)
    used = []

    for _ in range(3):
        before = [scene.vm.kvm.n_used_mmu_pages for scene in (first, third)]
        host.shrink_slab(4)
        after = [scene.vm.kvm.n_used_mmu_pages for scene in (first, third)]
        used.append(tuple(b - a for b, a in zip(before, after, strict=True)))

    assert used == [(4, 0), (0, 4), (4, 0)]


@pytest.mark.spec(PRESSURE)
def test_memory_pressure_is_no_event_for_the_tdp_mmu(kernel: str) -> None:
    """Edge: its pages are neither counted nor given."""
    scene = guest(kernel, MmuKind.TDP)
    scene.reads(0x6000)
    pages = structs(scene.vm)

    assert scene.vm.host.shrink_slab(1000) == 0
    assert structs(scene.vm) == pages
