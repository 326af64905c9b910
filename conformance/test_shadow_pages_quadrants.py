"""Section "Shadow pages": role.quadrant, role.has_4_byte_gpte."""

import pytest

from conformance.looking import backing, roots
from conformance.pictures import Camera
from conformance.scenes import GIB, MIB, PAGE, USED, Scene, guest
from mmu_model.snapshot import MmuKind, ShadowPage
from mmu_model.snapshot.spte import Kind


def two_level_guest(kernel: str, mapped: dict[int, int]) -> Scene:
    """A guest with 4-byte gptes, of which KVM knows nothing yet."""
    return guest(kernel, MmuKind.SHADOW, "32-bit", mapped=mapped, mapped_flags=USED)


def gptes(scene: Scene, page: ShadowPage, first: int) -> dict[int, int]:
    """For each leaf spte of a page the frame behind the gpte that stands `first` entries further on."""
    table = page.gfn << 12
    return {
        index: backing(scene.vm, scene.vm.memory.read(table + 4 * (first + index), 4) >> 12) or 0
        for index, spte in page.sptes().items()
        if spte.kind is Kind.LEAF
    }


def frames(page: ShadowPage) -> dict[int, int]:
    """The host frame of each leaf spte."""
    return {index: spte.pfn for index, spte in page.sptes().items() if spte.kind is Kind.LEAF}


@pytest.mark.spec("role.quadrant/4-byte-gptes-8-byte-sptes")
def test_4_byte_gptes_are_shadowed_by_8_byte_sptes(kernel: str, picture: Camera) -> None:
    """In pages with the flag, the n-th word of 8 bytes stands for the n-th word of 4 in the guest's table."""
    scene = two_level_guest(kernel, {n * PAGE: 3 * MIB + n * PAGE for n in range(8)})
    scene.reads(0x5000)

    pages = scene.vm.snapshot().pages
    (table,) = (page for page in pages if page.role.level == 1)

    assert {page.role.has_4_byte_gpte for page in pages} == {1}
    assert len(frames(table)) == 8
    assert frames(table) == gptes(scene, table, 0)
    picture("Eight 4-byte gptes, eight sptes", scene.vm)


@pytest.mark.spec("role.quadrant/several-pages-for-one-table")
def test_one_guest_table_takes_several_shadow_pages(kernel: str, picture: Camera) -> None:
    """A table with entries in both halves is shadowed by two pages, the directory by four."""
    scene = two_level_guest(kernel, {0x5000: 0x5000, 2 * MIB: 0x6000})
    scene.reads(0x5000)
    scene.reads(2 * MIB)

    counts: dict[tuple[int, int], int] = {}
    for page in scene.vm.snapshot().pages:
        key = page.role.level, page.gfn << 12
        counts[key] = counts.get(key, 0) + 1

    directory, table = scene.frames
    assert counts == {(2, directory): 4, (1, table): 2}
    picture("Four pages for a directory, two for a table", scene.vm)


@pytest.mark.spec("role.quadrant/first-level-halves")
def test_the_quadrant_of_a_first_level_page_is_a_half_of_the_table(kernel: str, picture: Camera) -> None:
    """Quadrant 0 stands for gptes 0 to 511, quadrant 1 for 512 to 1023; entry 1 KVM maps in advance."""
    mapped = {half + n * PAGE: 3 * MIB + half + n * PAGE for half in (0, 2 * MIB) for n in (0, 1, 511)}
    scene = two_level_guest(kernel, mapped)
    for address in (0, 511 * PAGE, 2 * MIB, 2 * MIB + 511 * PAGE):
        scene.reads(address)

    halves = {page.role.quadrant: page for page in scene.vm.snapshot().pages if page.role.level == 1}

    assert sorted(halves) == [0, 1]
    for quadrant, page in halves.items():
        assert set(frames(page)) == {0, 1, 511}
        assert frames(page) == gptes(scene, page, 512 * quadrant)
    picture("Two quadrants of a table", scene.vm)


@pytest.mark.spec("role.quadrant/second-level-quarters")
def test_the_quadrant_of_a_second_level_page_is_a_quarter_of_the_directory(
    kernel: str, picture: Camera
) -> None:
    """Quadrant q stands for entries 256 q to 256 q + 255: each has two sptes, one for each half of its table."""
    mapped = {
        (256 * q + n) * 4 * MIB + half: PAGE * (2 * q + 8)
        for q in range(4)
        for n in (0, 255)
        for half in (0, 2 * MIB)
    }
    scene = two_level_guest(kernel, mapped)
    for address in mapped:
        scene.reads(address)

    snapshot = scene.vm.snapshot()
    by_spt = {int(page.spt): page for page in snapshot.pages}
    quarters = {page.role.quadrant: page for page in snapshot.pages if page.role.level == 2}

    assert sorted(quarters) == [0, 1, 2, 3]
    for quadrant, page in quarters.items():
        assert sorted(page.sptes()) == [0, 1, 510, 511]
        for index, spte in page.sptes().items():
            entry = scene.vm.memory.read((page.gfn << 12) + 4 * (256 * quadrant + index // 2), 4)
            assert by_spt[spte.pfn].gfn == entry >> 12
            assert by_spt[spte.pfn].role.quadrant == index % 2
    picture("Four quadrants of a directory", snapshot)


@pytest.mark.spec("role.quadrant/second-level-quarters")
def test_a_directory_entry_that_is_written_takes_two_sptes_along(kernel: str, picture: Camera) -> None:
    """The guest changes one entry of its directory, and KVM drops what it was converted to: both sptes."""
    mapped = {0: 0x5000, 2 * MIB: 0x6000, 4 * MIB: 0x7000}
    scene = two_level_guest(kernel, mapped | {16 * MIB: 32 * MIB})
    for address in mapped:
        scene.reads(address)
    assert set(directory_of(scene).sptes()) == {0, 1, 2}

    before = scene.vm.snapshot()
    scene.cpu.write(16 * MIB, 0, 4)  # where the guest sees its own directory: entry 0

    assert set(directory_of(scene).sptes()) == {2, 8}
    picture("One gpte is cleared, two sptes go", scene.vm, before)


@pytest.mark.spec("role.quadrant/maps-1gb")
def test_a_second_level_quadrant_maps_1_gib(kernel: str, picture: Camera) -> None:
    """The first and the last page of each gigabyte are below the root with that quadrant."""
    mapped = {q * GIB + at: PAGE * (8 + 2 * q + (at > 0)) for q in range(4) for at in (0, GIB - PAGE)}
    scene = two_level_guest(kernel, mapped)
    for address in mapped:
        scene.reads(address)
    snapshot = scene.vm.snapshot()

    for gigabyte, page in enumerate(roots(snapshot)):
        assert page.role.quadrant == gigabyte
        assert {0, 511} <= set(page.sptes())
    picture("Each quadrant of a directory maps a gigabyte", snapshot)


@pytest.mark.spec("role.quadrant/maps-1gb")
def test_a_first_level_quadrant_maps_2_mib(kernel: str) -> None:
    """Edge: quadrants of level 1 are halves of a table, and map a half of its 4 MiB."""
    scene = two_level_guest(kernel, {0: 0x5000, 2 * MIB - PAGE: 0x6000, 2 * MIB: 0x7000})
    for address in (0, 2 * MIB - PAGE, 2 * MIB):
        scene.reads(address)

    halves = {page.role.quadrant: page for page in scene.vm.snapshot().pages if page.role.level == 1}

    assert {quadrant: sorted(frames(page)) for quadrant, page in halves.items()} == {0: [0, 511], 1: [0]}


@pytest.mark.spec("role.has_4_byte_gpte/guest-pte-size")
@pytest.mark.parametrize(
    ("mmu", "paging", "expected"),
    [
        (MmuKind.SHADOW, "32-bit", 1),
        (MmuKind.SHADOW, "PAE", 0),
        (MmuKind.SHADOW, "4-level", 0),
        (MmuKind.SHADOW, "off", 0),
        (MmuKind.DIRECT, "32-bit", 0),
        (MmuKind.TDP, "32-bit", 0),
    ],
)
def test_the_flag_tells_the_size_of_the_gptes(
    kernel: str, mmu: MmuKind, paging: str, expected: int, picture: Camera
) -> None:
    """1 where 4-byte gptes are shadowed; 0 for 8-byte gptes, and where guest-physical memory is mapped."""
    scene = guest(kernel, mmu, paging, mapped={0x5000: 0x5000})
    scene.reads(0x5000)

    assert {page.role.has_4_byte_gpte for page in scene.vm.snapshot().pages} == {expected}
    picture(f"Pages of a guest with {paging} paging", scene.vm)


@pytest.mark.spec("role.has_4_byte_gpte/guest-pte-size")
def test_a_direct_page_below_a_4_byte_gpte_has_the_flag(kernel: str, picture: Camera) -> None:
    """Edge: the part of a 4-MiB page of the guest that is mapped in small pages is direct, and it is 1 there."""
    scene = guest(kernel, MmuKind.SHADOW, "32-bit", mapped={4 * MIB: 4 * MIB}, mapped_level=2)
    scene.reads(4 * MIB + 0x3000)

    (page,) = (page for page in scene.vm.snapshot().pages if page.role.level == 1)

    assert (page.role.direct, page.role.has_4_byte_gpte) == (1, 1)
    picture("A direct page below a 4-byte gpte", scene.vm)


def directory_of(scene: Scene) -> ShadowPage:
    """The page for the first quarter of the guest's directory."""
    return next(p for p in scene.vm.snapshot().pages if p.role.level == 2 and p.role.quadrant == 0)
