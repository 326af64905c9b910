"""Roots of the shadow MMU where there is not one page for one table, and walks of what they lead to."""

from itertools import pairwise

import pytest

from conformance.looking import structs
from conformance.scenes import GIB, MIB, USED, Scene, guest, nested_guest
from mmu_model.hardware import Hpa
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.types import Kva, Sptep, pa
from mmu_model.snapshot import MmuKind

FRAME = (1 << 52) - (1 << 12)
PRESENT, ALL_RIGHTS = 1, 0x27
"""Flags of an entry that leads to a root: under PAE, P alone; in a table of four levels W, U and A besides."""


@pytest.fixture
def kernel() -> str:
    """The newest: none of this differs between kernels."""
    return "6.12"


def entries(scene: Scene, table: int, count: int = 4) -> list[int]:
    """The first entries of a table of the kernel's."""
    return [scene.vm.host.read(Sptep(Kva(table + 8 * index))) for index in range(count)]


def by_spt(scene: Scene) -> dict[int, KvmMmuPage]:
    """The shadow pages by where their sptes are."""
    return {sp.hpa: sp for sp in structs(scene.vm)}


@pytest.mark.parametrize(
    ("paging", "gfns", "quadrants"),
    [("off", [0, 1 << 18, 2 << 18, 3 << 18], [0] * 4), ("32-bit", [], [0, 1, 2, 3])],
)
def test_pae_paging_starts_from_four_roots(
    kernel: str, paging: str, gfns: list[int], quadrants: list[int]
) -> None:
    """Each for 1 GiB: of guest-physical addresses, or a quarter of the guest's directory; and the vCPU holds each."""
    scene = guest(kernel, MmuKind.SHADOW, paging, mapped={0x5000: 0x6000}, memory={GIB: GIB})
    scene.reads(0x5000)
    mmu = scene.cpu.vcpu.mmu
    assert mmu.pae_root is not None

    words = entries(scene, mmu.pae_root, 5)

    assert [word & ~FRAME for word in words] == [PRESENT] * 4 + [0]
    roots = [by_spt(scene)[word & FRAME] for word in words[:4]]
    assert [root.role.quadrant for root in roots] == quadrants
    if gfns:
        assert [root.gfn for root in roots] == gfns
    else:
        assert len({root.gfn for root in roots}) == 1
    assert [(root.role.level, root.root_count) for root in roots] == [(2, 1)] * 4
    assert mmu.root.hpa == pa(mmu.pae_root)


def test_a_pae_guest_names_its_directories_or_does_without(kernel: str) -> None:
    """One that is absent, and one where there is no memory, have no root."""
    scene = guest(kernel, MmuKind.SHADOW, "PAE", mapped={0x5000: 0x6000, 3 * GIB: 0x6000}, mapped_flags=USED)
    assert scene.tables is not None
    scene.vm.memory.write(scene.tables.root + 8, 40 * GIB | 1)
    scene.cpu.set_registers(scene.cpu.vcpu.registers)
    scene.reads(0x5000)
    mmu = scene.cpu.vcpu.mmu
    assert mmu.pae_root is not None

    words = entries(scene, mmu.pae_root)

    assert [bool(word) for word in words] == [True, False, False, True]
    directories = [scene.tables.entry_address(address, 2) >> 12 for address in (0, 3 * GIB)]
    assert [by_spt(scene)[word & FRAME].gfn for word in (words[0], words[3])] == directories
    assert scene.reads(3 * GIB) == 0


@pytest.mark.parametrize("paging", ["PAE", "32-bit"])
@pytest.mark.parametrize("levels", [4, 5])
def test_a_host_that_walks_more_levels_gets_tables_above(kernel: str, paging: str, levels: int) -> None:
    """Over nested tables of three levels: a table with one entry for each level more, down to the four roots."""
    scene = nested_guest(kernel, MmuKind.TDP, mapped={0x5000: 0x6000}, paging=paging, max_tdp_level=levels)
    scene.vm.memory.write(0x6000, 7)
    assert scene.reads(0x5000) == 7
    mmu = scene.cpu.vcpu.mmu
    assert mmu.pae_root is not None and mmu.pml4_root is not None
    tables = [mmu.pml4_root, mmu.pae_root]
    if levels == 5:
        assert mmu.pml5_root is not None
        tables = [mmu.pml5_root, *tables]

    assert mmu.root.hpa == pa(tables[0])
    for above, below in pairwise(tables):
        assert entries(scene, above) == [pa(below) | ALL_RIGHTS, 0, 0, 0]
    roots = [word for word in entries(scene, mmu.pae_root) if word]
    assert [word & ~FRAME for word in roots] == [ALL_RIGHTS] * len(roots)
    assert {by_spt(scene)[word & FRAME].role.level for word in roots} == {2}


def test_the_tables_above_are_made_once(kernel: str) -> None:
    """And used again with the next roots."""
    scene = nested_guest(kernel, MmuKind.TDP, mapped={0x5000: 0x6000}, paging="PAE", max_tdp_level=5)
    scene.reads(0x5000)
    mmu = scene.cpu.vcpu.mmu
    before = mmu.pae_root, mmu.pml4_root, mmu.pml5_root
    scene.vm.remove_memory(scene.vm.add_memory(2 * GIB, MIB))
    scene.reads(0x5000)

    assert (mmu.pae_root, mmu.pml4_root, mmu.pml5_root) == before


def test_roots_need_room_like_all_pages(kernel: str, mmu: MmuKind) -> None:
    """Before a root is made the oldest pages go, if there are too many."""
    if mmu is MmuKind.TDP:
        mmu = MmuKind.DIRECT
    scene = guest(
        kernel, mmu, "off" if mmu is MmuKind.DIRECT else "4-level", mapped={n * 2 * MIB: 0 for n in range(9)}
    )
    for number in range(9):
        scene.reads(number * 2 * MIB)
    kvm = scene.vm.kvm
    kvm.n_max_mmu_pages = kvm.n_used_mmu_pages
    scene.cpu.set_registers(scene.cpu.vcpu.registers)
    assert kvm.stat["mmu_recycled"] == 0

    scene.reads(0)

    assert kvm.stat["mmu_recycled"] >= 9
    assert Hpa(scene.cpu.vcpu.mmu.root.hpa) in by_spt(scene)
