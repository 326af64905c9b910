"""Walks of the tables that KVM made, with and without the lock; sptes that are stored and loaded by halves."""

import pytest

from conformance.looking import structs
from conformance.scenes import GIB, MIB, PAGE, Scene, editing_guest, guest, nested_guest
from mmu_model.hardware.types import Gfn
from mmu_model.kvm.host import Host
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.role import PageRole
from mmu_model.kvm.shadow_walk import for_each_shadow_entry, last_spte_lockless
from mmu_model.kvm.split_spte import get_spte_lockless, set_spte, update_clear_spte
from mmu_model.kvm.spte import SPTE_MMU_PRESENT_MASK, spte_to_pfn
from mmu_model.kvm.task import Steps, finish
from mmu_model.kvm.types import Sptep, spte_index
from mmu_model.snapshot import MmuKind

ADDRESS = 5 * GIB + 3 * 2 * MIB + 7 * PAGE
"""Its indexes are, from the root down, 0, 5, 3 and 7."""
LOW = (1 << 32) - 1


def walked(scene: Scene, address: int) -> list[tuple[int, int]]:
    """Levels and indexes of the sptes on the way to what translates an address."""
    return [(level, spte_index(sptep)) for level, sptep in for_each_shadow_entry(scene.cpu.vcpu, address)]


def test_from_the_root_down(kernel: str, mmu: MmuKind) -> None:
    """To the last level, or to where nothing leads further; the walk without lock ends at the same spte."""
    if mmu is MmuKind.SHADOW:
        scene = guest(kernel, mmu, "4-level", mapped={ADDRESS: 0x6000})
        scene.reads(ADDRESS)
    else:
        scene = used_beyond_4_gib(kernel, mmu)
    way = [(4, 0), (3, 5), (2, 3), (1, 7)]
    beyond = ADDRESS + 100 * GIB

    assert walked(scene, ADDRESS) == way
    assert walked(scene, beyond) == [(4, 0), (3, 105)]
    for address in (ADDRESS, beyond):
        *_, (_, last) = for_each_shadow_entry(scene.cpu.vcpu, address)
        assert finish(last_spte_lockless(scene.cpu.vcpu, address)) == (last, scene.vm.host.read(last))


def used_beyond_4_gib(kernel: str, mmu: MmuKind) -> Scene:
    """A guest with nested paging that reads from a high guest-physical address."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: ADDRESS}, memory={5 * GIB: 16 * MIB})
    scene.reads(0x5000)
    return scene


def test_a_walk_without_lock_can_be_overtaken_at_each_step(kernel: str) -> None:
    """What it has come to stays, whatever is stored in the entry that it has read already."""
    scene = used_beyond_4_gib(kernel, MmuKind.TDP)
    walk = last_spte_lockless(scene.cpu.vcpu, ADDRESS)
    steps = []
    host, (root,) = scene.vm.host, scene.vm.kvm.tdp_mmu_roots
    try:
        while True:
            steps.append(next(walk))
            host.write(root.sptep(0), scene.vm.kvm.kernel.frozen_spte)
    except StopIteration as end:
        sptep, spte = end.value
    assert len(steps) == 3
    assert spte_index(sptep) == 7
    assert spte & SPTE_MMU_PRESENT_MASK


@pytest.mark.parametrize(("address", "way"), [(0x5000, [(2, 0), (1, 5)]), (GIB + 0x5000, []), (3 * GIB, [])])
def test_from_the_page_directories_of_pae_paging(
    kernel: str, address: int, way: list[tuple[int, int]]
) -> None:
    """Four PDPTEs have no shadow page; where one is not present there is nothing."""
    scene = guest(kernel, MmuKind.SHADOW, "PAE", mapped={0x5000: 0x6000})
    scene.reads(0x5000)

    assert walked(scene, address) == way
    assert (finish(last_spte_lockless(scene.cpu.vcpu, address)) is None) is not bool(way)
    scene.cpu.invlpg(address)
    assert scene.reads(0x5000) == 0


@pytest.mark.parametrize("quarter", range(4))
def test_each_quarter_of_a_32_bit_guest(kernel: str, quarter: int) -> None:
    """It has a page directory of its own, which covers 1 GiB."""
    address = quarter * GIB + 0x20_5000
    scene = guest(kernel, MmuKind.SHADOW, "32-bit", mapped={address: 0x6000})
    scene.reads(address)
    quadrants = {sp.role.quadrant for sp in structs(scene.vm) if sp.role.level == 2 and any_spte(scene, sp)}

    assert (walked(scene, address), quadrants) == ([(2, 1), (1, 5)], {quarter})


def any_spte(scene: Scene, sp: KvmMmuPage) -> bool:
    """Whether an spte of the page is present."""
    return any(word & SPTE_MMU_PRESENT_MASK for word in scene.vm.host.words(sp.spt))


@pytest.mark.parametrize(("paging", "levels"), [("PAE", 4), ("PAE", 5), ("32-bit", 4)])
def test_below_tables_that_only_the_host_needs(kernel: str, paging: str, levels: int) -> None:
    """For a hypervisor with fewer levels the walk begins at its page directories."""
    scene = nested_guest(kernel, MmuKind.TDP, mapped={0x5000: 0x6000}, paging=paging, max_tdp_level=levels)
    scene.reads(0x5000)

    assert walked(scene, 0x5000) == [(2, 0), (1, 5)]


def test_nothing_below_a_root_of_zeroes() -> None:
    """6.12 gives one to a guest whose CR3 points at no memory, whatever its levels."""
    for paging in ("4-level", "32-bit"):
        scene = guest("6.12", MmuKind.SHADOW, paging)
        scene.cpu.mov_cr3(3 * GIB)
        scene.reads(0x5000)
        assert walked(scene, 0x5000) == []


def test_an_entry_is_read_when_the_next_step_is_asked_for(kernel: str) -> None:
    """What is made of it meanwhile decides where the walk goes."""
    scene = editing_guest(kernel, {0x5000: 0x6000})
    scene.reads(0x5000)
    walk = for_each_shadow_entry(scene.cpu.vcpu, 0x5000)
    next(walk)
    _, sptep = next(walk)
    scene.vm.host.write(sptep, 0)
    assert list(walk) == []


def split() -> tuple[Host, KvmMmuPage, Sptep]:
    """An spte of a page on a 32-bit host."""
    host = Host(x86_64=False)
    sp = KvmMmuPage(host, PageRole.of(level=1), Gfn(5), host.alloc_page())
    return host, sp, sp.sptep(9)


def halves(host: Host, sptep: Sptep, act: Steps[object]) -> list[tuple[int, int]]:
    """High and low half before each step and at the end."""
    seen = [(host.read(sptep) >> 32, host.read(sptep) & LOW)]
    for _ in act:
        seen.append((host.read(sptep) >> 32, host.read(sptep) & LOW))
    seen.append((host.read(sptep) >> 32, host.read(sptep) & LOW))
    return seen


def test_the_half_with_the_present_bits_is_the_last_to_come_and_the_first_to_go() -> None:
    """So the processor never walks to half an address (mmu.c: __set_spte, __update_clear_spte_slow)."""
    host, sp, sptep = split()
    spte, other = 0x12_3456_7000 | SPTE_MMU_PRESENT_MASK | 1, 0x12_3456_7000 | SPTE_MMU_PRESENT_MASK
    new, old = (spte >> 32, spte & LOW), (0, 0)

    assert halves(host, sptep, set_spte(host, sptep, spte)) == [old, (new[0], 0), new]
    assert sp.clear_spte_count == 0
    assert halves(host, sptep, update_clear_spte(host, sptep, other))[-1] == (other >> 32, other & LOW)
    assert sp.clear_spte_count == 0
    host.write(sptep, spte)
    assert halves(host, sptep, update_clear_spte(host, sptep, 0)) == [new, (new[0], 0), old, old]
    assert sp.clear_spte_count == 1
    host.write(sptep, spte)
    assert finish(update_clear_spte(host, sptep, 0)) == spte


def test_nobody_reads_half_an_spte() -> None:
    """Whatever happens between the loads of its halves: one that went and came back is noticed by the count
    (mmu.c: __get_spte_lockless)."""
    first, second = 0x12_0000_1000 | SPTE_MMU_PRESENT_MASK | 1, 0x34_0000_1000 | SPTE_MMU_PRESENT_MASK | 1
    for overtaken_at in range(5):
        host, _, sptep = split()
        host.write(sptep, first)
        reading, steps = get_spte_lockless(host, sptep), 0
        try:
            while True:
                if steps == overtaken_at:
                    finish(update_clear_spte(host, sptep, 0))
                    finish(set_spte(host, sptep, second))
                next(reading)
                steps += 1
        except StopIteration as end:
            seen = end.value
        assert seen in (first, second)
        assert spte_to_pfn(seen) in (0x12_0000_1, 0x34_0000_1)
        assert seen == second or overtaken_at == 4
    assert steps >= 4


def test_a_64_bit_host_reads_an_spte_at_once() -> None:
    host = Host()
    sp = KvmMmuPage(host, PageRole.of(level=1), Gfn(5), host.alloc_page())
    host.write(sp.sptep(9), 77)
    assert list(get_spte_lockless(host, sp.sptep(9))) == []
    assert finish(get_spte_lockless(host, sp.sptep(9))) == 77
