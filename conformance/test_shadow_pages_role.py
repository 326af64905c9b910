"""Section "Shadow pages": role.level, role.direct, gfn."""

import pytest

from conformance.looking import backing, children, leaves, roots
from conformance.pictures import Camera
from conformance.scenes import GIB, MIB, NESTED_FORMATS, PAGE, STUCK, Scene, guest, nested_guest
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind, ShadowPage, Snapshot

LINEAR = 0x1000_0000
"""A linear address that the guest maps where it likes."""


@pytest.mark.spec("role.level/level-in-the-hierarchy")
@pytest.mark.parametrize(
    ("mmu", "paging", "levels"),
    [
        (MmuKind.TDP, "off", 4),
        (MmuKind.DIRECT, "off", 4),
        (MmuKind.TDP, "off", 5),
        (MmuKind.DIRECT, "off", 5),
        (MmuKind.SHADOW, "off", 2),
        (MmuKind.SHADOW, "32-bit", 2),
        (MmuKind.SHADOW, "PAE", 2),
        (MmuKind.SHADOW, "4-level", 4),
        (MmuKind.SHADOW, "5-level", 5),
    ],
)
def test_a_page_has_the_level_of_its_place_in_the_walk(
    kernel: str, mmu: MmuKind, paging: str, levels: int, picture: Camera
) -> None:
    """The page that the walk ends in has level 1, the one before it level 2, and so on up to the root."""
    address_bits = 52 if levels == 5 else 46
    scene = guest(
        kernel, mmu, paging, mapped={0x5000: 0x5000}, maxphyaddr=address_bits, max_tdp_level=max(levels, 4)
    )
    scene.reads(0x5000)
    snapshot = scene.vm.snapshot()

    seen: list[set[int]] = []
    generation = roots(snapshot)
    while generation and len(seen) <= levels:
        seen.append({page.role.level for page in generation})
        generation = [child for page in generation for child in children(snapshot, page).values()]

    assert seen == [{level} for level in range(levels, 0, -1)]
    picture(f"{levels} levels, guest paging {paging}", snapshot)


@pytest.mark.spec("role.level/entry-sizes")
@pytest.mark.parametrize(("level", "size"), [(1, 4096), (2, 2 * MIB), (3, GIB)])
def test_one_spte_of_a_level_maps_that_much(kernel: str, mmu: MmuKind, level: int, size: int) -> None:
    """With host pages of each size, and the guest's own where they are shadowed, the guest needs one fault for
    all of it, and its spte is in that level. (KVM maps up to eight small pages at once: it is the last of them.)
    """
    start = GIB + 7 * PAGE if level == 1 else GIB
    paging = "4-level" if mmu is MmuKind.SHADOW else "off"
    mapped = {start: start, start + size: start + size}
    scene = guest(
        kernel, mmu, paging, memory={GIB: 2 * GIB}, mapped=mapped, mapped_level=level, host_level=level
    )
    scene.reads(start)
    faults = scene.cpu.vcpu.stat["pf_taken"]

    scene.reads(start + size - 8)

    assert scene.cpu.vcpu.stat["pf_taken"] == faults
    scene.reads(start + size)
    assert scene.cpu.vcpu.stat["pf_taken"] == faults + 1
    (root,) = roots(scene.vm.snapshot())
    assert {leaf.holder.role.level for leaf in leaves(scene.vm.snapshot(), root, 4)} == {level}


@pytest.mark.spec("role.level/entry-sizes")
@pytest.mark.parametrize(("level", "size"), [(4, 512 * GIB), (5, 512 * 512 * GIB)])
def test_one_spte_of_an_upper_level_spans_that_much(kernel: str, level: int, size: int) -> None:
    """Above 1 GiB sptes only lead on: memory that far apart hangs on entries side by side of that level."""
    scene = far_away(kernel, {LINEAR: size - PAGE, LINEAR + PAGE: size})
    snapshot = scene.vm.snapshot()

    assert shared_path(snapshot, size - PAGE, size, 5)[-1].role.level == level


@pytest.mark.spec("role.direct/set-linear-range")
@pytest.mark.parametrize("paging", ["off", "4-level"])
def test_direct_pages_reach_frames_in_a_row(kernel: str, mmu: MmuKind, paging: str, picture: Camera) -> None:
    """The n-th frame below a direct page is the n-th after its first, neighbours mapped in advance included."""
    scene = guest(kernel, mmu, paging, mapped={2 * MIB: 2 * MIB}, mapped_level=2)
    for address in (2 * MIB, 2 * MIB + 0x5000, 4 * MIB - PAGE):
        scene.reads(address)
    snapshot = scene.vm.snapshot()

    direct = [page for page in snapshot.pages if page.role.direct]
    reached = [
        (leaf.spte.pfn, backing(scene.vm, page.gfn + leaf.offset))
        for page in direct
        for leaf in leaves(snapshot, page, page.role.level)
    ]

    assert len(reached) >= 3
    assert all(mapped == expected for mapped, expected in reached)
    picture(f"Direct pages, {mmu.value}", snapshot)


@pytest.mark.spec("role.direct/examples")
def test_without_guest_paging_every_page_is_direct(kernel: str, mmu: MmuKind) -> None:
    """A guest in real mode uses guest-physical addresses: there is no table to shadow."""
    scene = guest(kernel, mmu, "off")
    scene.reads(0x5000)

    assert {page.role.direct for page in scene.vm.snapshot().pages} == {1}


@pytest.mark.spec("role.direct/examples")
@pytest.mark.parametrize(("level", "gpa"), [(2, 2 * MIB), (3, 0)])
def test_a_large_guest_page_on_small_host_pages_takes_direct_pages(
    kernel: str, level: int, gpa: int, picture: Camera
) -> None:
    """The guest maps 2 MiB or 1 GiB at once, the host only 4 KiB: the pages below the guest's level shadow no
    table."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={GIB: gpa}, mapped_level=level)
    scene.reads(GIB + 0x7000)
    pages = scene.vm.snapshot().pages

    assert {page.role.level: page.role.direct for page in pages} == {n: n < level for n in (1, 2, 3, 4)}
    picture(f"Direct pages below a large gpte of level {level}", scene.vm)


@pytest.mark.spec("role.direct/examples")
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
@pytest.mark.parametrize("tdp_format", NESTED_FORMATS)
def test_under_nested_paging_every_page_is_direct(kernel: str, mmu: MmuKind, tdp_format: TdpFormat) -> None:
    """The processor walks the guest's tables itself: KVM's, NPT or EPT, map guest-physical addresses only."""
    scene = guest(kernel, mmu, "4-level", mapped={0x5000: 0x6000}, tdp_format=tdp_format)
    scene.reads(0x5000)

    assert {page.role.direct for page in scene.vm.snapshot().pages} == {1}


@pytest.mark.spec("role.direct/range-and-size")
@pytest.mark.spec("gfn/table-or-base-frame")
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
@pytest.mark.parametrize(("level", "size"), [(1, 2 * MIB), (2, GIB), (3, 512 * GIB), (4, 512 * 512 * GIB)])
def test_a_direct_page_spans_its_range(kernel: str, mmu: MmuKind, level: int, size: int) -> None:
    """The page of a level has the first and the last frame of its range below it, and not the one behind.

    The last frame is touched first, so that nothing depends on where the guest begins.
    """
    start = max(GIB, 2 * size)
    last, behind = start + size - PAGE, start + size
    scene = far_away(kernel, {LINEAR: last, LINEAR + PAGE: start, LINEAR + 2 * PAGE: behind}, mmu)
    snapshot = scene.vm.snapshot()

    page = shared_path(snapshot, last, start, 5)[5 - level]

    assert page.role.level == level
    assert page.gfn << 12 == start
    offsets = {leaf.offset: leaf.spte.pfn for leaf in leaves(snapshot, page, level)}
    assert offsets == {
        0: backing(scene.vm, start >> 12),
        (size >> 12) - 1: backing(scene.vm, last >> 12),
    }


@pytest.mark.spec("role.direct/clear-guest-page-table")
@pytest.mark.spec("gfn/table-or-base-frame")
@pytest.mark.parametrize("paging", ["32-bit", "PAE", "4-level", "5-level"])
def test_the_gfn_of_other_pages_is_a_table_of_the_guest(kernel: str, paging: str, picture: Camera) -> None:
    """With shadow paging each page of KVM stands for a table that the guest made, and names its frame."""
    scene = guest(kernel, MmuKind.SHADOW, paging, mapped={0x5000: 0x6000, 0x4000_0000: 0x7000})
    scene.reads(0x5000)
    scene.reads(0x4000_0000)
    pages = scene.vm.snapshot().pages

    assert {page.role.direct for page in pages} == {0}
    top = 1 if paging == "PAE" else 0  # PDPTEs are registers: their table is not shadowed
    assert {page.gfn << 12 for page in pages} == set(scene.frames[top:])
    picture(f"gfns are those of tables, {paging}", scene.vm)


@pytest.mark.spec("role.direct/clear-guest-page-table")
@pytest.mark.spec("gfn/table-or-base-frame")
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
def test_a_passthrough_page_stands_for_no_table(kernel: str, mmu: MmuKind) -> None:
    """Edge: 5-level nested paging shadows 4-level tables below a root that no table of the guest is behind.

    It is not direct, and its gfn is that of the table which its first entry leads to.
    """
    scene = nested_guest(kernel, mmu, mapped={0x5000: 0x6000}, max_tdp_level=5, maxphyaddr=50)
    scene.reads(0x5000)
    snapshot = scene.vm.snapshot()

    (root,) = roots(snapshot)
    below = children(snapshot, root)

    assert (root.role.passthrough, root.role.direct, root.role.level) == (1, 0, 5)
    assert {index: page.gfn for index, page in below.items()} == {0: root.gfn}
    assert len([page for page in snapshot.pages if page.gfn << 12 == scene.frames[0]]) == 2


def far_away(kernel: str, mapped: dict[int, int], mmu: MmuKind = MmuKind.TDP) -> Scene:
    """A guest with memory at these guest-physical addresses, far apart, all of which it has read."""
    scene = guest(
        kernel,
        mmu,
        "4-level",
        memory=dict.fromkeys(sorted(set(mapped.values())), PAGE),
        mapped=mapped,
        maxphyaddr=52,
        max_tdp_level=5,
    )
    for address in mapped:
        assert scene.reads(address) != STUCK
    return scene


def shared_path(snapshot: Snapshot, one: int, other: int, levels: int) -> list[ShadowPage]:
    """The pages, from the root down, that a walk goes through for both guest-physical addresses."""
    (page,) = roots(snapshot)
    path = [page]
    for level in range(levels, 1, -1):
        shift = 12 + 9 * (level - 1)
        if one >> shift != other >> shift:
            break
        path.append(children(snapshot, path[-1])[one >> shift & 511])
    return path
