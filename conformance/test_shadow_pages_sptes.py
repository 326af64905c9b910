"""Section "Shadow pages": what leaf and nonleaf sptes stand for, and the table of translations."""

from collections.abc import Callable

import pytest

from conformance.looking import backing, leaves, links, roots, structs
from conformance.pictures import Camera
from conformance.scenes import (
    GIB,
    MIB,
    NESTED_FORMATS,
    NESTED_TABLES,
    P_W_U,
    PAGE,
    Scene,
    guest,
    inner_paging_guest,
    nested_guest,
    page_tables,
    paging_registers,
)
from mmu_model.hardware import Mode
from mmu_model.kvm.memory_region import add_memory_region
from mmu_model.kvm.memslot import KVM_MEM_READONLY
from mmu_model.kvm.types import pa
from mmu_model.kvm.vm import TdpFormat
from mmu_model.snapshot import MmuKind
from mmu_model.snapshot.spte import FRAME, Kind

HERE, THERE, WHERE, FAR = 0x5000, 0x6000, 0x7000, 0x40_5000


@pytest.mark.spec("shadow-pages/structure/contains-512-sptes")
@pytest.mark.parametrize(("level", "kind"), [(1, Kind.LEAF), (2, Kind.TABLE)])
def test_a_shadow_page_has_512_sptes_leaf_or_not(kernel: str, mmu: MmuKind, level: int, kind: Kind) -> None:
    """What 512 sptes of a level map in a row is in one page: leaves in the last level, none of them above. What
    is before and what is behind is in other pages, as their last and their first."""
    size = PAGE << 9 * (level - 1)
    start, behind = GIB, GIB + 512 * size
    scene = guest(kernel, mmu, memory={start - 2 * MIB: 2 * MIB, start: 512 * size, behind: 2 * MIB})
    for number in (-1, 0, 255, 256, 511, 512):
        scene.reads(start + number * size)

    pages = [page for page in scene.vm.snapshot().pages if page.role.level == level]
    used = {page.gfn << 12: page.sptes() for page in pages}

    assert {0, 255, 256, 511} <= set(used[start]) <= set(range(512))
    assert {spte.kind for spte in used[start].values()} == {kind}
    assert 511 in used[start - 512 * size] and 0 in used[behind]


@pytest.mark.spec("shadow-pages/structure/may-mix-leaf-and-nonleaf")
def test_one_page_can_have_both(kernel: str, mmu: MmuKind, picture: Camera) -> None:
    """2 MiB that the host maps at once beside 2 MiB that it maps in small pages."""
    scene = guest(kernel, mmu)
    add_memory_region(scene.vm.kvm, 7, GIB, 2 * MIB, scene.vm.process.mmap(512, 2))
    add_memory_region(scene.vm.kvm, 8, GIB + 2 * MIB, 2 * MIB, scene.vm.process.mmap(512, 1))
    scene.reads(GIB)
    scene.reads(GIB + 2 * MIB)

    (mixed,) = (
        {spte.kind for spte in page.sptes().values()}
        for page in scene.vm.snapshot().pages
        if page.role.level == 2 and page.gfn << 12 == GIB
    )

    assert mixed == {Kind.LEAF, Kind.TABLE}
    picture(f"Leaf and table in one page, {mmu.value}", scene.vm)


@pytest.mark.spec("shadow-pages/nonleaf/reaches-leaf-pages")
def test_a_nonleaf_spte_grants_everything(kernel: str) -> None:
    """Whatever the guest's upper entries deny: what counts is in the leaf. And without it no leaf is reached."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={HERE: THERE})
    assert scene.tables is not None
    for level in (2, 3, 4):
        where = scene.tables.entry_address(HERE, level)
        scene.vm.memory.write(where, scene.vm.memory.read(where) & ~6 | 1 << 63)
    scene.reads(HERE)
    snapshot = scene.vm.snapshot()
    upper = [s for page in snapshot.pages for s in page.sptes().values() if s.kind is Kind.TABLE]
    lower = [s for page in snapshot.pages for s in page.sptes().values() if s.kind is Kind.LEAF]
    faults = scene.cpu.vcpu.stat["pf_taken"]

    assert [(s.writable, s.user, s.executable) for s in upper] == [(True, True, True)] * 3
    assert [(s.writable, s.user, s.executable) for s in lower] == [(False, False, False)]
    link = next(link for link in links(scene.vm) if link.child.role.level == 1)
    scene.vm.host.write(link.sptep, scene.vm.kvm.kernel.shadow_nonpresent_value)  # type: ignore[arg-type]
    scene.cpu.mov_cr3(scene.cpu.vcpu.registers.cr3)
    scene.reads(HERE)
    assert scene.cpu.vcpu.stat["pf_taken"] == faults + 1


@pytest.mark.spec("shadow-pages/nonleaf/reaches-leaf-pages")
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT], ids=lambda mmu: mmu.value)
@pytest.mark.parametrize("tdp_format", [*NESTED_FORMATS, TdpFormat.EPT_WITHOUT_AD])
def test_a_nonleaf_spte_of_nested_paging_grants_everything(
    kernel: str, mmu: MmuKind, tdp_format: TdpFormat
) -> None:
    """Memory that nobody may write to: that is in the leaf. And without what leads there no leaf is reached."""
    scene = guest(kernel, mmu, tdp_format=tdp_format)
    add_memory_region(scene.vm.kvm, 7, GIB, MIB, scene.vm.process.mmap(256), flags=KVM_MEM_READONLY)
    scene.reads(GIB)
    sptes = [spte for page in scene.vm.snapshot().pages for spte in page.sptes().values()]
    rights = {
        kind: {(s.readable, s.writable, s.user, s.executable) for s in sptes if s.kind is kind}
        for kind in (Kind.TABLE, Kind.LEAF)
    }
    faults = scene.cpu.vcpu.stat["pf_taken"]

    assert rights == {Kind.TABLE: {(True, True, True, True)}, Kind.LEAF: {(True, False, True, True)}}
    link = next(link for link in links(scene.vm) if link.child.role.level == 1)
    scene.vm.host.write(link.sptep, scene.vm.kvm.kernel.shadow_nonpresent_value)  # type: ignore[arg-type]
    scene.vm.kvm.flush_remote_tlbs()
    scene.reads(GIB)
    assert scene.cpu.vcpu.stat["pf_taken"] == faults + 1


@pytest.mark.spec("shadow-pages/nonleaf/points-at-shadow-pages")
def test_a_nonleaf_spte_leads_to_the_sptes_of_a_shadow_page(kernel: str, mmu: MmuKind) -> None:
    """Each of them, and to nothing else."""
    scene = guest(kernel, mmu)
    scene.reads(HERE)
    scene.reads(4 * MIB)

    named = {
        spte.raw & FRAME
        for page in scene.vm.snapshot().pages
        for spte in page.sptes().values()
        if spte.kind is Kind.TABLE
    }

    assert named
    assert named <= {pa(sp.spt) for sp in structs(scene.vm)}


def off(kernel: str) -> Scene:
    """A guest without paging, shadow paging: what it calls THERE is guest-physical THERE."""
    return guest(kernel, MmuKind.SHADOW, "off")


def paging(kernel: str) -> Scene:
    """Shadow paging: the guest has mapped HERE to THERE."""
    return guest(kernel, MmuKind.SHADOW, "4-level", mapped={HERE: THERE})


def paging_tdp(kernel: str) -> Scene:
    """The same under nested paging."""
    return guest(kernel, MmuKind.TDP, "4-level", mapped={HERE: THERE})


def paging_direct(kernel: str) -> Scene:
    """The same by direct pages of the shadow MMU, which maps what is around THERE in advance."""
    return guest(kernel, MmuKind.DIRECT, "4-level", mapped={FAR: THERE})


def nested_tdp(kernel: str) -> Scene:
    """A nested guest with its own tables, HERE to THERE, over nested tables that have THERE at WHERE."""
    table = range(40 * MIB, 40 * MIB + 4 * PAGE, PAGE)
    scene = nested_guest(kernel, MmuKind.TDP, mapped={THERE: WHERE} | {page: page for page in table})
    inner = page_tables(scene.vm, Mode.FOUR_LEVEL, 40 * MIB, [])
    inner.map(HERE, THERE)
    scene.cpu.vcpu.registers = paging_registers(Mode.FOUR_LEVEL, inner.root)
    return scene


def nested_shadow(kernel: str) -> Scene:
    """A nested guest without nested paging: its hypervisor has made tables with HERE at WHERE, for the guest
    has HERE at its THERE, and that is WHERE."""
    scene = guest(kernel, MmuKind.SHADOW, "4-level", mapped={0x8000: 0x8000})
    scene.reads(0x8000)
    made = page_tables(scene.vm, Mode.FOUR_LEVEL, NESTED_TABLES, [])
    made.map(HERE, WHERE)
    scene.cpu.enter_nested(None, paging_registers(Mode.FOUR_LEVEL, made.root))
    return scene


def nested_ept(kernel: str) -> Scene:
    """The same with an EPT of the hypervisor's, and without tables of the nested guest's own."""
    return nested_guest(kernel, MmuKind.TDP, mapped={THERE: WHERE}, tdp_format=TdpFormat.EPT)


def nested_ept_and_paging(kernel: str) -> Scene:
    """The same with tables of its own: HERE to THERE."""
    return inner_paging_guest(
        kernel, MmuKind.TDP, linear={HERE: THERE}, nested={THERE: WHERE}, tdp_format=TdpFormat.EPT
    )


GUESTS: dict[str, tuple[Callable[[str], Scene], int, int, int]] = {
    "shadow-pages/nonpaging/gpa-to-hpa": (off, THERE, THERE, THERE),
    "shadow-pages/paging/gva-to-gpa-to-hpa": (paging, HERE, HERE, THERE),
    "shadow-pages/paging-tdp/gpa-to-hpa": (paging_tdp, HERE, THERE, THERE),
    "shadow-pages/nested-non-tdp/ngva-to-gpa-to-hpa": (nested_shadow, HERE, HERE, WHERE),
    "shadow-pages/nested-tdp/ngpa-to-gpa-to-hpa": (nested_tdp, HERE, THERE, WHERE),
}
"""By statement: the guest; the address that it uses; the one that the spte stands for; the gpa behind it."""

LEAF = [
    "shadow-pages/leaf/encodes-one-or-two-translations",
    "shadow-pages/leaf/lowest-level-of-the-stack",
    "shadow-pages/leaf/points-at-guest-pages",
]


@pytest.mark.parametrize(
    ("scene_of", "used", "stands_for", "gpa"),
    [
        pytest.param(*case, id=name.split("/")[1], marks=[pytest.mark.spec(mark) for mark in [name, *LEAF]])
        for name, case in (
            *GUESTS.items(),
            ("shadow-pages/paging-tdp/gpa-to-hpa", (paging_direct, FAR, THERE, THERE)),
            ("shadow-pages/nested-tdp/ngpa-to-gpa-to-hpa", (nested_ept, THERE, THERE, WHERE)),
            ("shadow-pages/nested-tdp/ngpa-to-gpa-to-hpa", (nested_ept_and_paging, HERE, THERE, WHERE)),
        )
    ],
)
def test_a_leaf_goes_from_its_address_to_the_host(
    kernel: str, scene_of: Callable[[str], Scene], used: int, stands_for: int, gpa: int, picture: Camera
) -> None:
    """The spte that the tables of KVM have for an address holds the host's frame behind the guest's memory.

    What comes before that address the processor does by the guest's own tables.
    """
    scene = scene_of(kernel)
    scene.vm.memory.write(gpa, 77)

    assert scene.reads(used) == 77

    snapshot = scene.vm.snapshot()
    mapped = {}
    for quarter, root in enumerate(roots(snapshot)):
        for leaf in leaves(snapshot, root, root.role.level):
            mapped[quarter * GIB + (leaf.offset << 12)] = leaf.spte.pfn
    assert mapped[stands_for] == backing(scene.vm, gpa >> 12)
    if stands_for != used:
        assert used not in mapped
    picture("From an address to the host", snapshot)


@pytest.mark.spec("shadow-pages/nested-non-tdp-footnote/guest-hypervisor-encodes-ngva-to-gpa")
def test_without_nested_paging_the_hypervisor_makes_the_tables(kernel: str) -> None:
    """The page that KVM maps the nested guest with shadows a table that the hypervisor wrote, with the gpa."""
    scene = nested_shadow(kernel)
    scene.reads(HERE)

    shadows = {int(sp.gfn): sp for sp in structs(scene.vm) if sp.role.guest_mode}

    assert {gfn << 12 for gfn in shadows} == {NESTED_TABLES + n * PAGE for n in range(4)}
    (table,) = (sp for sp in shadows.values() if sp.role.level == 1)
    entry = scene.vm.memory.read((table.gfn << 12) + 8 * (HERE >> 12))
    assert entry & ~0xFFF == WHERE
    assert entry & P_W_U == P_W_U
