"""Which frames are mapped by large pages: of a slot, those whose whole large page is in the slot, if guest and
process are in step (x86.c: kvm_alloc_memslot_metadata);
fewer if large pages may not be executable."""

from dataclasses import replace

import pytest

from conformance.looking import reached, structs
from conformance.scenes import GIB, MIB, PAGE, Scene, guest
from mmu_model.kernels import KERNELS
from mmu_model.kvm.errors import KvmError
from mmu_model.kvm.memory_region import add_memory_region, set_memory_region_flags
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES
from mmu_model.kvm.types import PG_LEVEL_1G, PG_LEVEL_2M, Hva
from mmu_model.snapshot import MmuKind

M2 = 2 * MIB


def with_slot(mmu: MmuKind, base: int, size: int, shift: int) -> Scene:
    """A guest with a slot whose memory the host maps with pages of 1 GiB.

    It begins as far past the start of a page of 1 GiB in the process as in the guest, and `shift` bytes more.
    """
    scene = guest("6.12", mmu)
    start = scene.vm.process.mmap(6 * GIB // PAGE, PG_LEVEL_1G)
    add_memory_region(scene.vm.kvm, 7, base, size, Hva(start + GIB + base % GIB + shift))
    return scene


def use(scene: Scene, gpa: int) -> None:
    """The guest reads what is there."""
    scene.vm.memory.write(gpa, gpa)
    assert scene.reads(gpa) == gpa


def level_at(scene: Scene, gpa: int) -> int:
    """The level of the spte that maps an address, once the guest has read what is there."""
    use(scene, gpa)
    found = [
        leaf.holder.role.level
        for leaf in reached(scene.vm.snapshot())
        if leaf.offset <= gpa // PAGE < leaf.offset + 512 ** (leaf.holder.role.level - 1)
    ]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT], ids=lambda mmu: mmu.value)
@pytest.mark.parametrize(
    ("base", "size", "shift", "levels"),
    [
        (2 * GIB, 2 * GIB, 0, {2 * GIB: 3, 4 * GIB - PAGE: 3}),
        (2 * GIB, GIB, 0, {2 * GIB: 3, 3 * GIB - PAGE: 3}),
        (2 * GIB + M2, 2 * GIB - M2, 0, {2 * GIB + M2: 2, 3 * GIB - PAGE: 2, 3 * GIB: 3}),
        (2 * GIB, GIB + M2, 0, {2 * GIB: 3, 3 * GIB: 2, 3 * GIB + M2 - PAGE: 2}),
        (2 * GIB + PAGE, 2 * M2, 0, {2 * GIB + PAGE: 1, 2 * GIB + M2: 2, 2 * GIB + 2 * M2: 1}),
        (2 * GIB, M2, 0, {2 * GIB: 2, 2 * GIB + M2 - PAGE: 2}),
        (2 * GIB, M2 - PAGE, 0, {2 * GIB: 1, 2 * GIB + M2 - 2 * PAGE: 1}),
        (2 * GIB + 3 * M2, M2 + PAGE, 0, {2 * GIB + 3 * M2: 2, 2 * GIB + 4 * M2: 1}),
    ],
)
def test_a_large_page_has_to_be_in_the_slot_as_a_whole(
    mmu: MmuKind, base: int, size: int, shift: int, levels: dict[int, int]
) -> None:
    """And is what the guest gets if it is, at the first address and at the last."""
    scene = with_slot(mmu, base, size, shift)

    assert {gpa: level_at(scene, gpa) for gpa in levels} == levels


@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT], ids=lambda mmu: mmu.value)
@pytest.mark.parametrize(
    ("size", "shift", "level"),
    [
        (M2, PAGE, 1),
        (3 * M2, PAGE, 1),
        (3 * M2, M2 - PAGE, 1),
        (M2, M2, 2),
        (2 * GIB, PAGE, 1),
        (2 * GIB, M2, 2),
        (2 * GIB, GIB - M2, 2),
        (2 * GIB, GIB, 3),
    ],
)
def test_guest_and_process_have_to_be_in_step(mmu: MmuKind, size: int, shift: int, level: int) -> None:
    """Otherwise a large page of the host is parts of two of the guest's, so that neither can be mapped as one."""
    scene = with_slot(mmu, 2 * GIB, size, shift)

    assert {level_at(scene, 2 * GIB + at) for at in (0, size // 2 & -M2, size - PAGE)} == {level}


@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT], ids=lambda mmu: mmu.value)
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_page_that_is_executed_is_small_and_its_neighbours_are_not(kernel: str, mmu: MmuKind) -> None:
    """With the NX mitigation, of 1 GiB: what was executed is small, the rest of those 2 MiB will be as it is used, and
    the rest of the 1 GiB is 2 MiB each, for there is a table; other memory is as large as it can be."""
    scene = guest(kernel, mmu, host_level=PG_LEVEL_1G, memory={2 * GIB: 2 * GIB})
    scene.vm.kvm.parameters = replace(scene.vm.kvm.parameters, nx_huge_pages=True)
    executed = 2 * GIB + 5 * M2 + 7 * PAGE
    level_at(scene, executed)
    scene.cpu.fetch(executed)

    levels = {
        executed: 1,
        executed + 64 * PAGE: 1,
        2 * GIB + 4 * M2 + 3 * PAGE: 2,
        3 * GIB - PAGE: 2,
        3 * GIB + 3 * PAGE: 3,
    }
    assert {gpa: level_at(scene, gpa) for gpa in levels} == levels
    executable = {leaf.offset for leaf in reached(scene.vm.snapshot()) if leaf.spte.executable}
    assert executed // PAGE in executable
    assert not executable & {2 * GIB // PAGE + 4 * 512, 3 * GIB // PAGE - 512, 3 * GIB // PAGE}


@pytest.mark.parametrize(("mmu", "bits"), [(MmuKind.TDP, 46), (MmuKind.DIRECT, 46), (MmuKind.SHADOW, 52)])
def test_a_slot_may_end_where_addresses_end(mmu: MmuKind, bits: int) -> None:
    """Those of the host under nested paging; otherwise those that an entry can hold (kvm_mmu_max_gfn)."""
    scene = guest("6.12", mmu)

    slot = scene.vm.add_memory((1 << bits) - PAGE, PAGE)
    with pytest.raises(KvmError, match=f"beyond the {bits} bits"):
        scene.vm.add_memory(1 << bits, PAGE)

    assert scene.vm.kvm.memslots[0].find((1 << bits) // PAGE - 1) is slot


@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT], ids=lambda mmu: mmu.value)
@pytest.mark.parametrize("kernel", KERNELS)
def test_pages_are_small_as_long_as_their_writes_are_logged(kernel: str, mmu: MmuKind) -> None:
    """The TDP MMU splits large pages when logging begins, the shadow MMU when they are used; what may be large again is
    dropped when it ends, in this slot and in no other."""
    scene = guest(kernel, mmu, host_level=PG_LEVEL_2M, memory={2 * GIB: 2 * M2, 3 * GIB: M2})
    slot, kvm = scene.vm.kvm.memslots[0].find(2 * GIB // PAGE), scene.vm.kvm
    assert slot is not None
    pages = [2 * GIB + 5 * PAGE, 2 * GIB + M2, 3 * GIB]
    assert [level_at(scene, gpa) for gpa in pages] == [2, 2, 2]

    set_memory_region_flags(kvm, slot, KVM_MEM_LOG_DIRTY_PAGES)
    split = {sp.gfn for sp in structs(scene.vm) if sp.role.level == 1}
    assert (2 * GIB // PAGE in split) is (mmu is MmuKind.TDP)
    for gpa in pages:
        scene.cpu.write(gpa, 1)
    assert [level_at(scene, gpa) for gpa in pages] == [1, 1, 2]

    set_memory_region_flags(kvm, slot, 0)
    left = {leaf.offset for leaf in reached(scene.vm.snapshot())}
    assert not left & {gpa // PAGE for gpa in pages[:2]} and pages[2] // PAGE in left
    assert [level_at(scene, gpa) for gpa in pages] == [2, 2, 2]
