"""A large page of the TDP MMU becomes a table and a table a large page: what is mapped stays the same."""

from dataclasses import replace

import pytest

from conformance.looking import structs
from conformance.races.actors import faults
from conformance.races.truths import leafs, whole
from conformance.scenes import GIB, MIB, PAGE, Scene, guest
from conformance.tdp.touched import KERNEL
from mmu_model.kvm.memory_region import set_memory_region_flags
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES, KvmMemorySlot
from mmu_model.kvm.spte import PT64_NX_MASK, PT_DIRTY_MASK, PT_PAGE_SIZE_MASK, spte_to_pfn
from mmu_model.kvm.task import Steps, Task, finish, running
from mmu_model.kvm.types import Sptep
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind
from mmu_model.tdp.huge_pages import kvm_tdp_mmu_try_split_huge_pages, kvm_tdp_mmu_zap_collapsible_sptes

FETCH = 0b10100
WRITE = 0b110


def large_guest(
    kernel: str, level: int, tdp_format: TdpFormat = TdpFormat.NPT
) -> tuple[Scene, KvmMemorySlot]:
    """A guest of which the host maps 2 GiB at 1 GiB with pages of that level; it wrote to the first of them."""
    scene = guest(kernel, MmuKind.TDP, tdp_format=tdp_format)
    slot = scene.vm.add_memory(GIB, 2 * GIB, level=level)
    scene.cpu.write(GIB, 1)
    return scene, slot


def split(scene: Scene, slot: KvmMemorySlot) -> None:
    """All large pages of the slot become small ones."""
    with scene.vm.kvm.mmu_lock.read:
        finish(kvm_tdp_mmu_try_split_huge_pages(scene.vm.kvm, slot))


def collapse(scene: Scene, slot: KvmMemorySlot) -> None:
    """What could be large pages goes."""
    with scene.vm.kvm.mmu_lock.read:
        finish(kvm_tdp_mmu_zap_collapsible_sptes(scene.vm.kvm, slot))


def where(scene: Scene, gfn: int, level: int) -> Sptep:
    """The entry of that level for a frame."""
    (sp,) = (
        sp for sp in structs(scene.vm) if sp.role.level == level and sp.gfn == gfn // 512**level * 512**level
    )
    return sp.sptep(gfn // 512 ** (level - 1) % 512)


def words(scene: Scene, *levels: int) -> list[int]:
    """The leafs that there are, of these levels if any are named, by what they map."""
    found = [spte for sp, _, spte in leafs(scene.vm) if not levels or sp.role.level in levels]
    return sorted(found, key=spte_to_pfn)


@pytest.mark.parametrize("tdp_format", TdpFormat)
def test_small_pages_map_what_the_large_one_did_in_the_same_way(tdp_format: TdpFormat) -> None:
    """Frame by frame with the same flags; only the bit that says large is gone."""
    scene, slot = large_guest(KERNEL, 2, tdp_format)
    (huge,) = words(scene)

    split(scene, slot)

    assert words(scene) == [(huge & ~PT_PAGE_SIZE_MASK) + n * PAGE for n in range(512)]
    assert scene.reads(GIB) == 1
    scene.cpu.write(GIB + 5 * PAGE, 2)
    assert scene.cpu.vcpu.stat["pf_taken"] == 1
    whole(scene.vm)


@pytest.mark.parametrize("nx", [False, True])
def test_of_a_page_of_2_mib_and_of_4_kib_only_the_smaller_may_be_executable(nx: bool) -> None:
    """With the mitigation no large page is, split or not; its small ones are, if it would be but for that."""
    scene, slot = large_guest(KERNEL, 2)
    kvm = scene.vm.kvm
    executable = words(scene)[0] & PT64_NX_MASK == 0
    assert executable
    if nx:
        kvm.parameters = replace(kvm.parameters, nx_huge_pages=True)
        sptep = where(scene, GIB // PAGE, 2)
        scene.vm.host.write(sptep, scene.vm.host.read(sptep) | PT64_NX_MASK)

    split(scene, slot)

    assert not any(spte & PT64_NX_MASK for spte in words(scene))


def test_without_the_mitigation_nothing_becomes_executable() -> None:
    scene, slot = large_guest(KERNEL, 2)
    sptep = where(scene, GIB // PAGE, 2)
    scene.vm.host.write(sptep, scene.vm.host.read(sptep) | PT64_NX_MASK)

    split(scene, slot)

    assert all(spte & PT64_NX_MASK for spte in words(scene))


def test_a_page_of_1_gib_is_split_down_to_small_ones() -> None:
    """First into pages of 2 MiB, which are large still, then each of these."""
    scene, slot = large_guest(KERNEL, 3)
    (huge,), kvm = words(scene), scene.vm.kvm
    splitting = kvm_tdp_mmu_try_split_huge_pages(kvm, slot)
    with kvm.mmu_lock.read:
        while not kvm.stat["pages_2m"]:
            next(splitting)
        assert words(scene, 2) == [huge + n * 2 * MIB for n in range(512)]
        assert (kvm.stat["pages_1g"], kvm.stat["pages_2m"]) == (0, 512)
        while not kvm.stat["pages_4k"] > 1024:
            next(splitting)
        assert spte_to_pfn(words(scene, 1)[1025]) == spte_to_pfn(huge) + 1025
        splitting.close()


def test_a_large_page_that_changes_while_it_is_split_is_split_as_it_is_then() -> None:
    """The processor notes a write in it; the table that was made for nothing is not lost."""
    scene, slot = large_guest(KERNEL, 2)
    kvm, host = scene.vm.kvm, scene.vm.host
    sptep = where(scene, GIB // PAGE, 2)
    host.write(sptep, host.read(sptep) & ~PT_DIRTY_MASK)
    with kvm.mmu_lock.read:
        splitting = kvm_tdp_mmu_try_split_huge_pages(kvm, slot)
        while next(splitting) != "compares and exchanges an spte":
            pass
        host.write(sptep, host.read(sptep) | PT_DIRTY_MASK)
        finish(splitting)

    assert len(words(scene)) == 512
    assert all(spte & PT_DIRTY_MASK for spte in words(scene))
    whole(scene.vm)


def test_logging_makes_small_what_is_in_the_slot_and_no_more() -> None:
    scene, _ = large_guest(KERNEL, 2)
    other = scene.vm.add_memory(3 * GIB, 4 * MIB, level=2)
    scene.cpu.write(3 * GIB, 3)
    scene.cpu.write(3 * GIB + 2 * MIB, 4)

    set_memory_region_flags(scene.vm.kvm, other, KVM_MEM_LOG_DIRTY_PAGES)

    assert (scene.vm.kvm.stat["pages_2m"], scene.vm.kvm.stat["pages_4k"]) == (1, 1024)
    assert [scene.reads(address) for address in (GIB, 3 * GIB, 3 * GIB + 2 * MIB)] == [1, 3, 4]
    whole(scene.vm)


@pytest.mark.parametrize(("level", "gone"), [(1, []), (2, [1]), (3, [1, 2])])
def test_tables_go_where_the_host_has_a_large_page(level: int, gone: list[int]) -> None:
    """Those that are in its place; the tables above stay, and so do those of other slots."""
    scene = guest(KERNEL, MmuKind.TDP)
    slot = scene.vm.add_memory(GIB, GIB, level=level)
    other = scene.vm.add_memory(2 * GIB, GIB, level=level)
    for each in (slot, other):
        each.dirty_bitmap = set()
    for number in range(4):
        scene.cpu.write(GIB + number * GIB // 2, number)
    for each in (slot, other):
        each.dirty_bitmap = None
    before = [sp.role.level for sp in structs(scene.vm) if sp.gfn < 2 * GIB // PAGE]
    beyond = [sp for sp in structs(scene.vm) if sp.gfn >= 2 * GIB // PAGE]

    flushes = scene.vm.kvm.stat["remote_tlb_flush"]
    collapse(scene, slot)

    left = [sp.role.level for sp in structs(scene.vm) if sp.gfn < 2 * GIB // PAGE]
    assert left == [each for each in before if each not in gone]
    assert [sp for sp in structs(scene.vm) if sp.gfn >= 2 * GIB // PAGE] == beyond
    assert scene.vm.kvm.stat["remote_tlb_flush"] - flushes == {1: 0, 2: 2, 3: 1}[level]
    assert [scene.reads(GIB + number * GIB // 2) for number in range(4)] == [0, 1, 2, 3]
    whole(scene.vm)


def test_an_entry_is_frozen_until_its_translations_are_out_of_the_tlbs() -> None:
    """So that nobody makes another before."""
    scene, slot = large_guest(KERNEL, 2)
    kvm, host = scene.vm.kvm, scene.vm.host
    split(scene, slot)
    sptep, flushes = where(scene, GIB // PAGE, 2), kvm.stat["remote_tlb_flush"]
    seen = []
    with kvm.mmu_lock.read:
        collapsing = kvm_tdp_mmu_zap_collapsible_sptes(kvm, slot)
        for stop in collapsing:
            if host.read(sptep) == kvm.kernel.frozen_spte:
                seen.append((str(stop), kvm.stat["remote_tlb_flush"] - flushes))

    assert seen[-1] == ("thaws an spte", 1)
    assert seen[0] == ("freezes a table that was unlinked", 0)
    assert host.read(sptep) == kvm.kernel.shadow_nonpresent_value


def test_a_table_that_is_replaced_by_a_large_page_is_flushed_and_freed(kernel: str) -> None:
    """By a fault, once nothing speaks against a large page any more."""
    scene = guest(kernel, MmuKind.TDP, host_level=2)
    finish(faults(scene.cpu.vcpu, 2 * MIB, WRITE, max_level=1))
    flushes = scene.vm.kvm.stat["remote_tlb_flush"]

    finish(faults(scene.cpu.vcpu, 2 * MIB + PAGE, WRITE))

    assert [sp.role.level for sp in structs(scene.vm)] == [4, 3, 2]
    assert scene.vm.kvm.stat["remote_tlb_flush"] - flushes == 1
    whole(scene.vm)


def test_a_fetch_splits_a_large_page_or_takes_it_away(kernel: str) -> None:
    """6.12 leaves the other small pages mapped; 6.1 leaves them to their own faults."""
    scene = guest(kernel, MmuKind.TDP, host_level=2)
    scene.vm.kvm.parameters = replace(scene.vm.kvm.parameters, nx_huge_pages=True)
    scene.cpu.write(2 * MIB, 7)
    flushes = scene.vm.kvm.stat["remote_tlb_flush"]

    scene.cpu.fetch(2 * MIB + 5 * PAGE)

    assert len(words(scene)) == (512 if kernel == "6.12" else 1)
    assert scene.vm.kvm.stat["remote_tlb_flush"] - flushes == (0 if kernel == "6.12" else 1)
    assert scene.reads(2 * MIB) == 7
    whole(scene.vm)


@pytest.mark.parametrize("many", ["table", "large page", "leaf"])
def test_who_comes_second_tries_again(kernel: str, many: str) -> None:
    """Two vCPUs are about to make the same; nothing is made twice, and nothing is lost."""
    scene = guest(kernel, MmuKind.TDP, host_level=2)
    second = scene.vm.add_cpu()
    for cpu in (scene.cpu, second):
        cpu.read(32 * MIB)
    address, level = 2 * MIB, None
    if many == "table":
        scene.vm.add_memory(GIB, MIB)
        address = GIB
    elif many == "large page":
        scene.cpu.read(2 * MIB)
        level = 1
    else:
        finish(faults(scene.cpu.vcpu, 2 * MIB + PAGE, max_level=1))
        level = 1
    code = FETCH if many == "large page" else WRITE
    slow: Steps[object] = faults(scene.cpu.vcpu, address, code, max_level=level)
    for stop in slow:
        if stop == "compares and exchanges an spte":
            break
    with running(Task("the second")):
        finish(faults(second.vcpu, address, code, max_level=level))
    again = [str(stop) for stop in slow]

    assert any(stop.startswith("somebody else") for stop in again)
    whole(scene.vm)
