"""Section "Large pages": which sizes there are, and what a large spte needs."""

from dataclasses import replace

import pytest

from conformance.large_pages import FAR, SIZES, large_guest, leaf_for, leaves_for, level_for
from conformance.looking import roots
from conformance.pictures import Camera
from conformance.scenes import (
    GIB,
    MIB,
    NESTED_FORMATS,
    NESTED_TABLES,
    PAGE,
    TABLES,
    USED,
    Scene,
    guest,
    nested_root,
    page_tables,
    paging_registers,
)
from mmu_model.hardware import Gfn, Mode, Registers
from mmu_model.kvm.guest_memfd import set_memory_attributes
from mmu_model.kvm.memory_region import add_memory_region
from mmu_model.kvm.memslot import KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES
from mmu_model.kvm.types import Hva
from mmu_model.kvm.vm import TdpFormat
from mmu_model.machine import VirtualMachine
from mmu_model.snapshot import MmuKind

NESTED_PAGING = [MmuKind.TDP, MmuKind.DIRECT]
GUEST_PAGES = [
    *(("4-level", level) for level in (1, 2, 3)),
    *(("5-level", level) for level in (1, 2, 3)),
    *(("PAE", level) for level in (1, 2)),
    *(("32-bit", level) for level in (1, 2)),
]
"""Every size of page that each paging mode has, as a level; that of level 2 is 4 MiB with 32-bit paging."""


@pytest.mark.spec("large-pages/combinations/all-sizes")
@pytest.mark.parametrize("host_level", [1, 2, 3])
@pytest.mark.parametrize(("paging", "guest_level"), GUEST_PAGES)
def test_every_size_of_the_guest_goes_with_every_size_of_the_host(
    kernel: str, paging: str, guest_level: int, host_level: int
) -> None:
    """The guest reads its memory, and the spte is as large as both allow."""
    scene = large_guest(kernel, MmuKind.SHADOW, guest_level=guest_level, host_level=host_level, paging=paging)
    last = FAR + SIZES[guest_level] - 8
    scene.vm.memory.write(last, 77)

    assert scene.reads(last) == 77

    assert level_for(scene, last) == min(guest_level, host_level)


@pytest.mark.spec("large-pages/combinations/all-sizes")
@pytest.mark.parametrize("mmu", NESTED_PAGING)
@pytest.mark.parametrize("host_level", [1, 2, 3])
@pytest.mark.parametrize("guest_level", [1, 2, 3])
def test_so_it_does_under_nested_paging(kernel: str, mmu: MmuKind, guest_level: int, host_level: int) -> None:
    """The guest's size is in its own tables, the host's in KVM's."""
    scene = large_guest(kernel, mmu, guest_level=guest_level, host_level=host_level)
    last = FAR + SIZES[guest_level] - 8
    scene.vm.memory.write(last, 77)

    assert scene.reads(last) == 77

    assert level_for(scene, last) == host_level


@pytest.mark.spec("large-pages/combinations/4k-2m-4m-1g")
@pytest.mark.parametrize(
    ("paging", "level", "size"),
    [("4-level", 1, PAGE), ("4-level", 2, 2 * MIB), ("32-bit", 2, 4 * MIB), ("4-level", 3, GIB)],
)
def test_pages_of_each_size_work(kernel: str, paging: str, level: int, size: int) -> None:
    """The guest maps a page of 4 KiB, 2 MiB, 4 MiB or 1 GiB, and reads its last word through a page as large
    as that, or through one of two halves."""
    scene = large_guest(kernel, MmuKind.SHADOW, guest_level=level, host_level=level, paging=paging)
    scene.vm.memory.write(FAR + size - 8, 77)

    assert scene.reads(FAR + size - 8) == 77

    assert level_for(scene, FAR + size - 8) == level


@pytest.mark.spec("large-pages/combinations/4m-as-two-2m")
@pytest.mark.parametrize("host_level", [2, 3])
def test_a_page_of_4_mib_is_two_of_2_mib(kernel: str, host_level: int, picture: Camera) -> None:
    """A 32-bit guest's large page has two sptes, made one by one as they are used, under PAE roots."""
    scene = large_guest(kernel, MmuKind.SHADOW, guest_level=2, host_level=host_level, paging="32-bit")

    scene.reads(FAR)
    first, ahead = leaf_for(scene, FAR), leaves_for(scene, FAR + 2 * MIB)
    scene.reads(FAR + 2 * MIB)
    second = leaf_for(scene, FAR + 2 * MIB)

    assert ahead == []
    assert (first.holder.role.level, second.holder.role.level) == (2, 2)
    assert second.spte.pfn == first.spte.pfn + 512
    assert scene.vm.snapshot().vcpus[0].root_mmu.root.kind == "pae"
    picture("Two sptes of 2 MiB for a page of 4 MiB", scene.vm)


@pytest.mark.spec("large-pages/combinations/4m-as-two-2m")
@pytest.mark.parametrize(("paging", "levels"), [("4-level", 4), ("5-level", 5)])
def test_other_guests_are_not_run_with_pae_paging(kernel: str, paging: str, levels: int) -> None:
    """Edge: the shadow of a guest with four levels has four itself; so with five."""
    scene = large_guest(kernel, MmuKind.SHADOW, guest_level=2, host_level=2, paging=paging)
    scene.reads(FAR)

    assert [page.role.level for page in roots(scene.vm.snapshot())] == [levels]


@pytest.mark.spec("large-pages/combinations/4m-as-two-2m")
@pytest.mark.parametrize("mmu", NESTED_PAGING)
def test_under_nested_paging_4_mib_are_not_taken_apart(kernel: str, mmu: MmuKind) -> None:
    """Edge: both halves are in the one spte that the host's page of 1 GiB has."""
    scene = large_guest(kernel, mmu, guest_level=2, host_level=3, paging="32-bit")
    scene.reads(FAR)

    assert leaf_for(scene, FAR) == leaf_for(scene, FAR + 2 * MIB)


@pytest.mark.spec("large-pages/constraints/lead-in")
@pytest.mark.parametrize("missing", ["none", "host page", "guest page", "no table in it", "one slot"])
def test_each_of_the_four_constraints_is_needed(kernel: str, missing: str) -> None:
    """A large spte if all of them are satisfied, a small one if all but one are."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level")
    hva = scene.vm.process.mmap(512, 1 if missing == "host page" else 2)
    add_memory_region(scene.vm.kvm, 7, GIB, MIB if missing == "one slot" else 2 * MIB, hva)
    scene.map({FAR: GIB}, level=1 if missing == "guest page" else 2, flags=USED)
    if missing == "no table in it":
        other = page_tables(scene.vm, Mode.FOUR_LEVEL, GIB + 16 * PAGE, [])
        other.map(0x5000, 0x6000)
        scene.cpu.set_registers(paging_registers(Mode.FOUR_LEVEL, other.root))
        scene.reads(0x5000)
        scene.cpu.set_registers(paging_registers(Mode.FOUR_LEVEL, TABLES))

    scene.reads(FAR)

    assert level_for(scene, GIB) == (2 if missing == "none" else 1)


@pytest.mark.spec("large-pages/constraints/lead-in")
@pytest.mark.parametrize("reason", ["none", "dirty logging", "out of step", "fetch"])
def test_there_are_more_reasons_against_a_large_spte(kernel: str, mmu: MmuKind, reason: str) -> None:
    """Edge: all of the four are satisfied. There is a large spte only if the slot does not log writes, if
    guest and process agree on where large pages begin, and if it is not for a fetch while large pages must not be
    executable."""
    scene = guest(kernel, mmu, host_level=2)
    flags = KVM_MEM_LOG_DIRTY_PAGES if reason == "dirty logging" else 0
    hva = scene.vm.process.mmap(2048, 2)
    hva = Hva(hva + PAGE) if reason == "out of step" else hva
    add_memory_region(scene.vm.kvm, 7, GIB, 4 * MIB, hva, flags=flags)
    scene.vm.kvm.parameters = replace(scene.vm.kvm.parameters, nx_huge_pages=True)

    if reason == "fetch":
        scene.cpu.fetch(GIB)
    else:
        scene.reads(GIB)

    assert level_for(scene, GIB) == (2 if reason == "none" else 1)


@pytest.mark.spec("large-pages/constraints/lead-in")
def test_without_paging_there_is_nothing_larger_than_2_mib(kernel: str, mmu: MmuKind) -> None:
    """Edge: a guest without paging, on a host with pages of 1 GiB. Shadow paging runs it with PAE page tables,
    whose largest page that is."""
    scene = guest(kernel, mmu, memory={GIB: GIB}, host_level=3)
    scene.reads(GIB)

    assert level_for(scene, GIB) == (2 if mmu is MmuKind.SHADOW else 3)


@pytest.mark.spec("large-pages/constraints/lead-in")
@pytest.mark.parametrize("kernel", ["6.12"])
def test_no_large_spte_has_private_memory_in_it(kernel: str) -> None:
    """Edge: one frame of 2 MiB has memory that the process cannot map. The others are mapped one by one, until it has
    not any more and is used."""
    vm = VirtualMachine(kernel, MmuKind.TDP, private_memory=True)
    vm.add_memory(0, 4 * MIB, level=2, flags=KVM_MEM_GUEST_MEMFD)
    scene = Scene(vm, vm.add_cpu())

    seen = []
    for private in (False, True, False):
        set_memory_attributes(vm.kvm, Gfn(0x205), 1, private=private)
        for address in (2 * MIB, 2 * MIB + 5 * PAGE):
            scene.reads(address)
        seen.append(level_for(scene, 2 * MIB))

    assert seen == [2, 1, 2]


@pytest.mark.spec("large-pages/host-page/large")
@pytest.mark.parametrize("level", [1, 2, 3])
def test_an_spte_is_not_larger_than_the_hosts_page(
    kernel: str, mmu: MmuKind, level: int, picture: Camera
) -> None:
    """The guest maps 1 GiB; the host's pages are the limit."""
    scene = large_guest(kernel, mmu, guest_level=3, host_level=level)
    scene.reads(FAR)

    assert level_for(scene, FAR) == level
    picture(f"Host pages of level {level}, {mmu.value}", scene.vm)


@pytest.mark.spec("large-pages/guest-pte/at-least-as-large")
@pytest.mark.parametrize("level", [1, 2, 3])
def test_an_spte_is_not_larger_than_the_guests_page(kernel: str, mmu: MmuKind, level: int) -> None:
    """The host has 1 GiB; with shadow paging the guest's page is the limit, under nested paging nothing is."""
    scene = large_guest(kernel, mmu, guest_level=level, host_level=3)
    scene.reads(FAR)

    assert level_for(scene, FAR) == (level if mmu is MmuKind.SHADOW else 3)


@pytest.mark.spec("large-pages/guest-pte/at-least-as-large")
@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("mmu", NESTED_PAGING)
@pytest.mark.parametrize("tdp_format", NESTED_FORMATS)
def test_for_a_nested_guest_the_hypervisors_page_is_the_limit(
    kernel: str, mmu: MmuKind, tdp_format: TdpFormat, level: int
) -> None:
    """Edge: nested paging is enabled, and there is an entry of the guest all the same: the one of the tables that it
    made for a guest of its own."""
    scene = guest(
        kernel,
        mmu,
        "4-level",
        memory={FAR: GIB},
        mapped={TABLES: TABLES},
        host_level=3,
        tdp_format=tdp_format,
    )
    scene.reads(TABLES)
    nested = page_tables(scene.vm, Mode.FOUR_LEVEL, NESTED_TABLES, [])
    nested.map(FAR, FAR, level, USED)
    scene.cpu.enter_nested(nested_root(nested.root, "4-level", tdp_format), Registers(maxphyaddr=46))

    assert scene.reads(FAR) == 0

    assert level_for(scene, FAR) == level


@pytest.mark.spec("large-pages/write-protected/no-overlap", refutes=True)
@pytest.mark.parametrize("flags", [USED, USED & ~0x2])
def test_a_page_with_a_protected_table_in_it_is_never_large(kernel: str, flags: int, picture: Camera) -> None:
    """Whether the spte will be writable makes no difference. The page beside, without tables, is large."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000}, host_level=2)
    scene.map({GIB: 32 * MIB, GIB + 2 * MIB: 36 * MIB}, level=2, flags=flags)
    scene.reads(0x5000)

    scene.reads(GIB + MIB)
    scene.reads(GIB + 2 * MIB)

    around, beside = leaf_for(scene, 33 * MIB), leaf_for(scene, 36 * MIB)
    assert around.spte.writable == beside.spte.writable == bool(flags & 0x2)
    assert (around.holder.role.level, beside.holder.role.level) == (1, 2)
    picture("Small sptes where a protected table is", scene.vm)


@pytest.mark.spec("large-pages/one-slot/wholly-contained")
@pytest.mark.parametrize("level", [2, 3])
def test_a_large_spte_lies_within_one_slot(kernel: str, mmu: MmuKind, level: int, picture: Camera) -> None:
    """Two slots side by side, in the guest as in the process; the border is inside a large page of the host. What is
    of that size in guest and host is mapped by the next smaller one there."""
    size, start = SIZES[level], 4 * GIB
    scene = guest(kernel, mmu, "4-level", host_level=2)
    scene.map({start + n * size: start + n * size for n in range(3)}, level, USED)
    hva = scene.vm.process.mmap(3 * size // PAGE, level)
    add_memory_region(scene.vm.kvm, 7, start, 3 * size // 2, hva)
    add_memory_region(scene.vm.kvm, 8, start + 3 * size // 2, 3 * size // 2, Hva(hva + 3 * size // 2))

    for number in range(3):
        scene.reads(start + number * size)

    assert [level_for(scene, start + n * size) for n in range(3)] == [level, level - 1, level]
    picture(f"Slots that end within a large page of level {level}, {mmu.value}", scene.vm)
