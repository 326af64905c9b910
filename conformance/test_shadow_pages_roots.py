"""Section "Shadow pages": root_count, role.invalid."""

import pytest

from conformance.looking import roots, structs
from conformance.pictures import Camera
from conformance.scenes import (
    GIB,
    MIB,
    NESTED_FORMATS,
    TABLES,
    USED,
    Scene,
    guest,
    nested_guest,
    page_tables,
)
from mmu_model.hardware import Mode
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind, PageId, ShadowPage, Snapshot

SELF = 0x4000_0000
"""Where the guest sees its own top-level table."""


def counts(snapshot: Snapshot) -> dict[int, set[int | None]]:
    """The values of root_count by level."""
    found: dict[int, set[int | None]] = {}
    for page in snapshot.pages:
        found.setdefault(page.role.level, set()).add(page.root_count)
    return found


def by_id(scene: Scene, page: ShadowPage) -> ShadowPage | None:
    """The page as it is now; None if it is no more, or its struct serves another root."""
    now = scene.vm.snapshot().by_id().get(PageId(page.id))
    return now if now and (now.gfn, now.role.level) == (page.gfn, page.role.level) else None


def self_mapping_guest(kernel: str) -> Scene:
    """A shadowed guest that can write to its top-level table."""
    return guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000, SELF: TABLES}, mapped_flags=USED)


@pytest.mark.spec("root_count/counts-references")
@pytest.mark.parametrize("mmu", [MmuKind.DIRECT, MmuKind.SHADOW])
def test_every_vcpu_on_a_root_counts(kernel: str, mmu: MmuKind, picture: Camera) -> None:
    """Two vCPUs with the same root: it has two references, and one when one of them has other tables."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: 0x6000})
    second = scene.vm.add_cpu(scene.cpu.vcpu.registers)
    scene.reads(0x5000)
    second.read(0x5000)
    (root,) = roots(scene.vm.snapshot())
    assert root.root_count == 2

    before = scene.vm.snapshot()
    scene.cpu.enter_smm()
    scene.reads(0x5000)

    left = by_id(scene, root)
    assert left is not None
    assert left.root_count == 1
    picture(f"One vCPU went to another root, {mmu.value}", scene.vm, before)


@pytest.mark.spec("root_count/vcpus-take-references")
@pytest.mark.parametrize(
    ("mmu", "paging", "level", "number"),
    [
        (MmuKind.SHADOW, "4-level", 4, 1),
        (MmuKind.SHADOW, "PAE", 2, 1),
        (MmuKind.SHADOW, "32-bit", 2, 4),
        (MmuKind.SHADOW, "off", 2, 4),
        (MmuKind.DIRECT, "off", 4, 1),
    ],
)
def test_what_the_processor_starts_from_is_referenced(
    kernel: str, mmu: MmuKind, paging: str, level: int, number: int, picture: Camera
) -> None:
    """CR3, the PDPTEs or nCR3: each page that one of them leads to has one reference, all others none."""
    scene = guest(kernel, mmu, paging, mapped={0x5000: 0x6000})
    scene.reads(0x5000)
    snapshot = scene.vm.snapshot()

    assert len(roots(snapshot)) == number
    assert counts(snapshot) == {n: {1 if n == level else 0} for n in range(1, level + 1)}
    picture(f"Roots, {mmu.value}, guest paging {paging}", snapshot)


@pytest.mark.spec("root_count/vcpus-take-references")
@pytest.mark.spec("root_count/counts-hardware-registers", refutes=True)
def test_roots_that_a_vcpu_remembers_stay_referenced(kernel: str, picture: Camera) -> None:
    """The guest goes to other tables: the root that is loaded no more, but kept, keeps its reference."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000})
    scene.reads(0x5000)
    (first,) = roots(scene.vm.snapshot())
    other = page_tables(scene.vm, Mode.FOUR_LEVEL, 40 * MIB, [])
    other.map(0x5000, 0x7000)

    scene.cpu.mov_cr3(other.root)
    scene.reads(0x5000)

    snapshot = scene.vm.snapshot()
    (second,) = roots(snapshot)
    assert second.id != first.id
    assert {page.id: page.root_count for page in snapshot.pages if page.role.level == 4} == {
        first.id: 1,
        second.id: 1,
    }
    picture("A root that is remembered stays referenced", snapshot)


def address_spaces_guest(kernel: str, number: int) -> tuple[Scene, list[int]]:
    """A shadowed guest that has used so many address spaces, one after the other; the roots of their tables."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000})
    tables = [scene.frames[0]]
    for n in range(1, number):
        other = page_tables(scene.vm, Mode.FOUR_LEVEL, TABLES + n * MIB, [])
        other.map(0x5000, 0x7000)
        tables.append(other.root)
    for root in tables:
        scene.cpu.mov_cr3(root)
        scene.reads(0x5000)
    return scene, tables


@pytest.mark.spec("root_count/vcpus-take-references")
def test_a_vcpu_remembers_three_roots(kernel: str) -> None:
    """Of five that it has had, it has a reference to the one that is loaded and to the three before. The first is
    still there, for nobody zapped it."""
    scene, tables = address_spaces_guest(kernel, 5)

    held = {page.gfn << 12: page.root_count for page in scene.vm.snapshot().pages if page.role.level == 4}

    assert [held[root] for root in tables] == [0, 1, 1, 1, 1]


@pytest.mark.spec("root_count/vcpus-take-references")
@pytest.mark.parametrize("tdp_format", NESTED_FORMATS)
def test_what_nested_paging_starts_from_is_referenced(kernel: str, tdp_format: TdpFormat) -> None:
    """nCR3 or EPTP: the root for a nested guest has a reference, and that for its hypervisor keeps its own."""
    scene = nested_guest(kernel, MmuKind.DIRECT, mapped={0x5000: 0x6000}, tdp_format=tdp_format)
    scene.reads(0x5000)

    held = {(page.role.guest_mode, page.role.level): page.root_count for page in scene.vm.snapshot().pages}

    assert held == {(mode, level): int(level == 4) for mode in (0, 1) for level in (1, 2, 3, 4)}


@pytest.mark.spec("root_count/not-destroyed-while-referenced")
@pytest.mark.spec("root_count/not-destroyed-while-nonzero")
@pytest.mark.spec("role.invalid/pinned-root")
def test_an_invalid_root_lives_as_long_as_a_vcpu_has_it_loaded(kernel: str) -> None:
    """KVM zaps a root in use: it is invalid but there, and gone when the vCPU lets go of it."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000}, memory={GIB: MIB})
    scene.reads(0x5000)
    (root,) = roots(scene.vm.snapshot())

    remove_extra_memory(scene)

    left = [(int(sp.gfn), sp.root_count, sp.role.invalid) for sp in structs(scene.vm)]
    assert left == [(int(root.gfn), 1, 1)]

    scene.reads(0x5000)  # enters the guest again, so loads another root

    assert {sp.role.invalid for sp in structs(scene.vm)} == {0}


@pytest.mark.spec("role.invalid/pinned-root")
def test_a_root_that_is_only_remembered_is_kept_too(kernel: str) -> None:
    """Edge: no register of the processor has led to it for a while."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x5000: 0x6000}, memory={GIB: MIB})
    scene.reads(0x5000)
    (first,) = roots(scene.vm.snapshot())
    other = page_tables(scene.vm, Mode.FOUR_LEVEL, 40 * MIB, [])
    other.map(0x5000, 0x7000)
    scene.cpu.mov_cr3(other.root)
    scene.reads(0x5000)

    remove_extra_memory(scene)

    kept = [sp for sp in structs(scene.vm) if int(sp.gfn) == int(first.gfn)]
    assert [(sp.role.invalid, sp.root_count) for sp in kept] == [(1, 1)]
    assert roots(scene.vm.snapshot())[0].id != first.id


@pytest.mark.spec("role.invalid/unusable")
def test_an_invalid_page_serves_nobody(kernel: str, picture: Camera) -> None:
    """The guest writes two bytes into its own top-level table, so KVM zaps the shadow of what cannot be a
    table. The guest goes on with another."""
    scene = self_mapping_guest(kernel)
    scene.reads(0x5000)
    scene.vm.memory.write(0x6000, 77)
    (root,) = roots(scene.vm.snapshot())

    scene.cpu.write(SELF + 8 * 300, 0, 2)
    zapped = by_id(scene, root)
    assert zapped is not None
    assert zapped.role.invalid == 1

    before = scene.vm.snapshot()
    assert scene.reads(0x5000) == 77

    snapshot = scene.vm.snapshot()
    assert {page.role.invalid for page in roots(snapshot)} == {0}
    assert {page.role.invalid for page in snapshot.pages if page.entries} == {0}
    picture("An invalid page serves nobody", snapshot, before)


def remove_extra_memory(scene: Scene) -> None:
    """Take away the slot that nobody uses: which makes KVM drop everything."""
    extra = scene.vm.kvm.memslots[0].by_id(1)
    assert extra is not None
    scene.vm.remove_memory(extra)
