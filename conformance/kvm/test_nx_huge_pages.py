"""Pages that are small because large ones must not be executable, and how they become large again."""

from dataclasses import replace

import pytest

from conformance.looking import structs
from conformance.scenes import MIB, Scene, guest
from mmu_model.hardware.types import Gfn
from mmu_model.kvm.memory_region import set_memory_region_flags
from mmu_model.kvm.memslot import KVM_MEM_LOG_DIRTY_PAGES
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.task import finish
from mmu_model.kvm.types import PG_LEVEL_2M
from mmu_model.machine import VirtualMachine
from mmu_model.shadow.nx import (
    calc_nx_huge_pages_recovery_period,
    kvm_recover_nx_huge_pages,
    nx_huge_page_recovery_worker,
)
from mmu_model.snapshot import MmuKind

KINDS = [(MmuKind.TDP, "off"), (MmuKind.DIRECT, "off"), (MmuKind.SHADOW, "off"), (MmuKind.SHADOW, "4-level")]
HOUR_MS = 3_600_000


def mitigated(kernel: str, mmu: MmuKind, paging: str = "off", ratio: int = 60) -> Scene:
    """A guest of which the host maps all in large pages, and maps so itself, with nx_huge_pages on."""
    mapped = {n * 2 * MIB: n * 2 * MIB for n in range(1, 5)}
    scene = guest(kernel, mmu, paging, host_level=PG_LEVEL_2M, mapped=mapped, mapped_level=2)
    parameters = scene.vm.kvm.parameters
    scene.vm.kvm.parameters = replace(parameters, nx_huge_pages=True, nx_huge_pages_recovery_ratio=ratio)
    return scene


def small(scene: Scene) -> list[int]:
    """Which pages of 2 MiB are made of small ones for that reason, as far as the VM knows."""
    return [sp.gfn >> 9 for sp in scene.vm.kvm.possible_nx_huge_pages]


def tables(scene: Scene, number: int) -> list[KvmMmuPage]:
    """The tables of small pages for a page of 2 MiB."""
    gfn = Gfn(number << 9)
    return [sp for sp in structs(scene.vm) if sp.role.level == 1 and sp.role.direct and sp.gfn == gfn]


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
@pytest.mark.parametrize(("mmu", "paging"), KINDS)
def test_a_fetch_makes_small_pages_and_recovery_a_large_one(kernel: str, mmu: MmuKind, paging: str) -> None:
    scene = mitigated(kernel, mmu, paging, ratio=1)
    scene.cpu.read(2 * MIB)
    before = tables(scene, 1)
    scene.cpu.fetch(2 * MIB + 0x1000)
    split = tables(scene, 1)
    known = small(scene)

    finish(kvm_recover_nx_huge_pages(scene.vm.kvm))
    scene.cpu.read(2 * MIB)
    recovered = tables(scene, 1)
    scene.cpu.fetch(2 * MIB)

    counts = mmu is not MmuKind.SHADOW or paging != "off" or kernel == "6.12"  # 6.1: not without paging
    assert (before, len(split), known) == ([], 1, [1] if counts else [])
    assert recovered == ([] if counts else split)
    assert len(tables(scene, 1)) == 1


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
@pytest.mark.parametrize(("ratio", "left"), [(0, [1, 2, 3]), (1, []), (2, [3]), (3, [2, 3]), (60, [2, 3])])
def test_the_oldest_go_one_in_so_many_rounded_up(
    kernel: str, mmu: MmuKind, ratio: int, left: list[int]
) -> None:
    scene = mitigated(kernel, mmu, ratio=ratio)
    for n in range(1, 4):
        scene.cpu.fetch(n * 2 * MIB)

    finish(kvm_recover_nx_huge_pages(scene.vm.kvm))

    assert small(scene) == left
    assert [n for n in range(1, 4) if tables(scene, n)] == left


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
def test_which_tables_are_marked(kernel: str, mmu: MmuKind) -> None:
    """6.12 marks all that a fetch makes; 6.1 the one in whose place a large page could be."""
    scene = mitigated(kernel, mmu)
    scene.cpu.fetch(2 * MIB)

    marked = sorted(sp.role.level for sp in structs(scene.vm) if sp.nx_huge_page_disallowed)

    assert marked == ([1] if kernel == "6.1" else [1, 2, 3])
    assert small(scene) == [1]


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
@pytest.mark.parametrize("mmu", [MmuKind.TDP, MmuKind.DIRECT])
def test_what_is_logged_would_be_small_again(kernel: str, mmu: MmuKind) -> None:
    """6.12 leaves it, and forgets why it is small; 6.1 zaps it."""
    scene = mitigated(kernel, mmu, ratio=1)
    scene.cpu.fetch(2 * MIB)
    (slot,) = scene.vm.kvm.memslots[0]
    set_memory_region_flags(scene.vm.kvm, slot, KVM_MEM_LOG_DIRTY_PAGES)

    finish(kvm_recover_nx_huge_pages(scene.vm.kvm))

    assert small(scene) == []
    assert len(tables(scene, 1)) == (1 if kernel == "6.12" else 0)


@pytest.mark.parametrize(
    ("ratio", "period_ms", "expected"),
    [
        (60, 0, 60_000),
        (1, 0, HOUR_MS),
        (3600, 0, 1000),
        (7200, 0, 1000),
        (60, 5, 5),
        (0, 0, None),
        (0, 5, None),
    ],
)
def test_the_period(ratio: int, period_ms: int, expected: int | None) -> None:
    parameters = replace(
        VirtualMachine(nx_huge_pages=True).kvm.parameters,
        nx_huge_pages_recovery_ratio=ratio,
        nx_huge_pages_recovery_period_ms=period_ms,
    )

    assert calc_nx_huge_pages_recovery_period(parameters) == expected
    assert calc_nx_huge_pages_recovery_period(replace(parameters, nx_huge_pages=False)) is None


def test_the_worker_waits_for_the_end_of_the_period() -> None:
    scene = mitigated("6.12", MmuKind.TDP)
    for n in range(1, 4):
        scene.cpu.fetch(n * 2 * MIB)
    left = []

    for now_ms in (59_999, 60_000, 119_999, 120_000):
        assert finish(nx_huge_page_recovery_worker(scene.vm.kvm, now_ms))
        left.append(len(small(scene)))

    assert left == [3, 2, 2, 1]
    scene.vm.kvm.parameters = replace(scene.vm.kvm.parameters, nx_huge_pages=False)
    assert not finish(nx_huge_page_recovery_worker(scene.vm.kvm, 999_999))
    assert len(small(scene)) == 1
