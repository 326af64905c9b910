"""Snapshots of VMs over EPT: what the bits of their sptes say, in pages of either MMU and in the shadow of EPT."""

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from conformance.nested_ept import EPT_USED, nested_ept_guest
from mmu_model.kernels import KERNELS
from mmu_model.kvm.vm import TdpFormat
from mmu_model.machine import VirtualMachine
from mmu_model.snapshot import (
    Kind,
    MmuKind,
    Recording,
    ShadowPage,
    Snapshot,
    Spte,
    SpteFormat,
    Word,
    canonical,
    differences,
    read_recording,
    write_recording,
)

MIB = 1 << 20
SUPPRESS_VE, AD_DISABLED = 1 << 63, 1 << 52
MMU_WRITABLE, HOST_WRITABLE, MMU_PRESENT = 1 << 58, 1 << 57, 1 << 11
MEMORY_TYPE = 6 << 3 | 1 << 6

LEAF = MMU_WRITABLE | HOST_WRITABLE | MMU_PRESENT | MEMORY_TYPE | 0x12_3000
"""As 6.12 makes it, but for R, W, X, accessed and dirty."""


def ept(raw: int, level: int = 1) -> Spte:
    """An entry of EPT's layout."""
    return Spte(raw, level, SpteFormat.EPT)


@pytest.mark.parametrize(
    ("raw", "level", "kind"),
    [
        (0, 1, Kind.EMPTY),
        (SUPPRESS_VE, 3, Kind.EMPTY),
        (LEAF | 7, 1, Kind.LEAF),
        (LEAF, 1, Kind.LEAF),  # made to fault, so that an access is noticed
        (LEAF | 1 << 7 | 7, 2, Kind.LEAF),
        (SUPPRESS_VE | MMU_PRESENT | 0x5000 | 7, 2, Kind.TABLE),
        (0xD000_0000 | 5 << 3 | 6, 1, Kind.MMIO),
        (0x5A0, 3, Kind.FROZEN),
        (SUPPRESS_VE | 0x5A0, 3, Kind.FROZEN),
        (1 << 51 | 1, 1, Kind.OTHER),  # MMIO in the other layout
    ],
)
def test_the_kind_of_an_entry(raw: int, level: int, kind: Kind) -> None:
    """W and X without R is MMIO; bit 51 has nothing to do with it."""
    assert ept(raw, level).kind is kind


def test_each_bit_has_its_place() -> None:
    """One at a time; what the other layout has there means nothing here."""
    names = (
        "readable",
        "user",
        "writable",
        "executable",
        "accessed",
        "dirty",
        "host_writable",
        "mmu_writable",
    )
    places = {0: ("readable", "user"), 1: ("writable",), 2: ("executable",), 8: ("accessed",), 9: ("dirty",)}
    places |= {57: ("host_writable",), 58: ("mmu_writable",)}

    for bit in (*range(12), *range(52, 64)):
        said = tuple(name for name in names if getattr(ept(1 << bit), name))
        assert said == places.get(bit, ()), bit

    assert [ept(n << 52).ad_type for n in range(3)] == [0, 1, 2]


def test_an_mmio_entry_keeps_no_access() -> None:
    """Frame and generation are where they always are."""
    spte = ept(0xD0001 << 12 | (0x345 >> 8) << 52 | 0x45 << 3 | 6)

    assert (spte.mmio_gfn, spte.mmio_generation) == (0xD0001, 0x345)
    assert str(spte) == f"{spte.raw:#018x} mmio gfn 0xd0001 generation 837"


def test_an_entry_in_words() -> None:
    """R, W and X; no user."""
    assert str(ept(LEAF | 0x305)).endswith("leaf pfn 0x123 r-x AD host mmu")
    assert str(ept(LEAF | 4)).endswith("leaf pfn 0x123 --x -- host mmu")
    assert ept(LEAF | 7).with_pfn(9) == ept(LEAF & ~0x12_3000 | 7 | 0x9000)


def test_an_entry_that_waits_for_an_access_keeps_its_rights_elsewhere() -> None:
    """R and X, 54 bits further up, in an entry without accessed flags."""
    tracked = ept(LEAF | AD_DISABLED | 4 << 54)

    assert (tracked.executable, tracked.restored.executable, tracked.restored.readable) == (
        False,
        True,
        False,
    )
    assert ept(LEAF | AD_DISABLED | 1 << 54).restored == ept(LEAF | AD_DISABLED | 1 << 54 | 1)
    assert ept(LEAF | 4 << 54).restored == ept(LEAF | 4 << 54)
    assert ept(LEAF | 2 * AD_DISABLED | 4 << 54).restored == ept(LEAF | 2 * AD_DISABLED | 4 << 54)


@pytest.mark.parametrize("right", [1, 2, 4])
def test_an_entry_with_a_right_waits_for_nothing(right: int) -> None:
    """What is 54 bits further up is not looked at then; bit 55 never: W is not kept there."""
    used = ept(LEAF | AD_DISABLED | 5 << 54 | right)

    assert used.restored == used
    assert not ept(LEAF | AD_DISABLED | 2 << 54).restored.writable


kernels = pytest.mark.parametrize("kernel", KERNELS)
mmus = pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
formats = pytest.mark.parametrize("tdp_format", [TdpFormat.EPT, TdpFormat.EPT_WITHOUT_AD])


def words(pages: list[ShadowPage], index: int) -> dict[int, Spte]:
    """The entry at an index, or else the first, by level."""
    return {page.role.level: page.sptes().get(index) or page.sptes()[0] for page in pages}


@kernels
@mmus
@formats
def test_pages_for_guest_physical_memory(kernel: str, mmu: MmuKind, tdp_format: TdpFormat) -> None:
    """Both MMUs: permissions, flags and the rest are found where KVM put them."""
    vm = VirtualMachine(kernel, mmu, tdp_format=tdp_format)
    vm.add_memory(0, MIB)
    vm.add_cpu().write(0x5000, 5)
    has_flags = tdp_format is TdpFormat.EPT

    (page,) = (page for page in vm.snapshot().pages if page.role.level == 1)
    leaf = page.sptes()[5]

    assert page.spte_format is SpteFormat.EPT
    assert (leaf.kind, leaf.readable, leaf.writable, leaf.executable) == (Kind.LEAF, True, True, True)
    assert (leaf.accessed, leaf.dirty, leaf.ad_type) == (has_flags, has_flags, 0 if has_flags else 1)
    assert leaf.host_writable and leaf.mmu_writable


@kernels
@mmus
def test_pages_that_shadow_ept(kernel: str, mmu: MmuKind) -> None:
    """Execute-only in EPT12 is execute-only in EPT02, and what has no memory is MMIO."""
    scene = nested_ept_guest(kernel, mmu, {0x5000: 0x6000, 0x6000: 1 << 40, 0x7000: 0x8000})
    scene.edit(0x5000, 0x6000 | EPT_USED & ~3)
    scene.outcome("fetch", 0x5000)
    scene.outcome("read", 0x6000)
    scene.outcome("read", 0x7000)

    found = words(scene.shadows(), 5)
    (table,) = (page for page in scene.shadows() if page.role.level == 1)

    assert {page.spte_format for page in scene.vm.snapshot().pages} == {SpteFormat.EPT}
    assert [found[level].kind for level in (4, 3, 2, 1)] == [Kind.TABLE] * 3 + [Kind.LEAF]
    assert (found[1].readable, found[1].writable, found[1].executable) == (False, False, True)
    mmio = table.sptes()[6]
    assert (mmio.kind, mmio.mmio_gfn) == (Kind.MMIO, 1 << 28)


@pytest.mark.parametrize("tdp_format", list(TdpFormat))
def test_without_nested_paging_there_is_no_layout_to_name(tdp_format: TdpFormat) -> None:
    """Shadow paging is the same on all processors."""
    vm = VirtualMachine(mmu=MmuKind.SHADOW, tdp_format=tdp_format)
    vm.add_memory(0, MIB)
    vm.add_cpu().read(0x5000)

    assert {page.spte_format for page in vm.snapshot().pages} == {None}


def over_ept() -> Snapshot:
    """A canonical snapshot."""
    vm = VirtualMachine(tdp_format=TdpFormat.EPT)
    vm.add_memory(0, MIB)
    vm.add_cpu().write(0x5000, 5)
    return canonical(vm.snapshot("here"))


def test_the_layout_is_kept_in_files(tmp_path: Path) -> None:
    """And entries are spelt by it, for people."""
    path = tmp_path / "x.json.gz"
    recording = Recording("x", "0" * 64, (), (over_ept(),))

    write_recording(path, recording)

    assert read_recording(path) == recording
    text = gzip.decompress(path.read_bytes()).decode()
    assert '"spte_format": "ept"' in text
    assert "rwx AD host mmu" in text


def test_a_difference_is_spelt_by_the_layout() -> None:
    """Frames are renamed, and a lost W is a lost W."""
    one = over_ept()
    (page,) = (page for page in one.pages if page.role.level == 1)
    entries = tuple(replace(entry, raw=Word(entry.raw & ~2)) for entry in page.entries)
    two = replace(one, pages=tuple(replace(p, entries=entries) if p is page else p for p in one.pages))

    lines = differences(one, two)

    assert len(lines) == len(entries)
    assert all(" rwx " in line and " r-x " in line for line in lines)
