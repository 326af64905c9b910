"""The recordings in the repository: complete, of today's scenarios, canonical, small."""

import re
from functools import cache
from pathlib import Path

import pytest

from kvm_live.compare import compare
from kvm_live.kernels import EXPLANATIONS, explain
from mmu_model.scenario import Scenario, compile_scenario, read_scenario
from mmu_model.snapshot import Kind, MmuKind, canonical, read_recording

ROOT = Path(__file__).parents[1]
RECORDINGS = ROOT / "conformance" / "recordings"
SCENARIOS = sorted((ROOT / "conformance" / "scenarios").glob("*.yaml"))
DOCUMENT = ROOT / "docs" / "kernels-6.1-6.12.md"
BITS = (
    *("has_4_byte_gpte", "direct", "invalid", "efer_nx", "cr0_wp", "smm"),
    *("smep_andnot_wp", "smap_andnot_wp", "guest_mode", "passthrough"),
)
MEBIBYTE = 1 << 20


def expected(scenario: Scenario) -> set[Path]:
    return {
        RECORDINGS / kernel / mmu.value / f"{scenario.name}.json.gz"
        for kernel in scenario.kernels
        for mmu in scenario.kinds
    }


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_scenario_is_recorded_as_it_is_now(path: Path) -> None:
    """Or it was changed since: make live."""
    scenario = read_scenario(path)
    program = compile_scenario(scenario)

    for file in expected(scenario):
        recording = read_recording(file)
        assert recording.program == program.digest
        assert recording.scenario == scenario.name
        assert [snapshot.name for snapshot in recording.snapshots] == list(program.snapshots)
        for snapshot in recording.snapshots:
            assert (snapshot.kernel, snapshot.mmu) == (file.parts[-3], MmuKind(file.parts[-2]))
            assert canonical(snapshot) == snapshot


def test_nothing_else_lies_among_the_recordings() -> None:
    wanted = set().union(*(expected(read_scenario(path)) for path in SCENARIOS))

    assert {path for path in RECORDINGS.rglob("*") if path.is_file()} == wanted


def test_the_recordings_are_small() -> None:
    assert sum(path.stat().st_size for path in RECORDINGS.rglob("*.gz")) < 3 * MEBIBYTE


@cache
def values() -> dict[str, set[object]]:
    """The values seen of each field of the role, and of some others."""
    found: dict[str, set[object]] = {}
    for path in RECORDINGS.rglob("*.gz"):
        for snapshot in read_recording(path).snapshots:
            for page in snapshot.pages:
                for name in page.role.__slots__:
                    found.setdefault(f"role.{name}", set()).add(getattr(page.role, name))
                for name in (
                    "unsync",
                    "mmu_valid_gen",
                    "write_flooding_count",
                    "nx_huge_page_disallowed",
                    "listed",
                ):
                    found.setdefault(name, set()).add(getattr(page, name))
                found.setdefault("kind", set()).update(spte.kind for spte in page.sptes().values())
            for vcpu in snapshot.vcpus:
                found.setdefault("root", set()).update((vcpu.root_mmu.root.kind, vcpu.guest_mmu.root.kind))
    return found


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        ("role.level", {1, 2, 3, 4, 5}),
        ("role.quadrant", {0, 1, 2, 3}),
        ("role.access", {1, 3, 5, 6, 7}),
        *((f"role.{bit}", {0, 1}) for bit in BITS),
        ("role.ad_disabled", {0}),  # 1 needs EPT without accessed and dirty bits
        ("unsync", {False, True}),
        ("mmu_valid_gen", {0, 1, None}),
        ("write_flooding_count", {0, 1, 2}),
        ("nx_huge_page_disallowed", {False, True}),
        ("listed", {"active", "roots", "table", "vcpu"}),
        ("kind", {Kind.LEAF, Kind.TABLE, Kind.MMIO}),
        ("root", {"none", "page", "pae", "special"}),
    ],
)
def test_the_recordings_show_every_value_that_can_be_had(field: str, wanted: set[object]) -> None:
    assert values()[field] == wanted


@pytest.mark.parametrize("mmu", [mmu.value for mmu in MmuKind])
def test_all_that_differs_between_the_kernels_has_a_reason(mmu: str) -> None:
    counts, unexplained = explain(compare(RECORDINGS / "6.1" / mmu, RECORDINGS / "6.12" / mmu))

    assert unexplained == []
    column = [kind.value for kind in MmuKind].index(mmu)
    rows = re.findall(
        r"^\| \[([\w-]+)\]\S* \| (\d+) \| (\d+) \| (\d+) \|$", DOCUMENT.read_text(), re.MULTILINE
    )
    assert {row[0]: int(row[1 + column]) for row in rows} == {e.key: counts[e.key] for e in EXPLANATIONS}


def test_every_reason_is_needed_and_told() -> None:
    lines = [
        line
        for mmu in MmuKind
        for line in compare(RECORDINGS / "6.1" / mmu.value, RECORDINGS / "6.12" / mmu.value)
    ]
    counts, _ = explain(lines)

    headings = re.findall(r"^## ([\w-]+)$", DOCUMENT.read_text(), re.MULTILINE)
    assert headings == [explanation.key for explanation in EXPLANATIONS]
    assert all(counts[explanation.key] for explanation in EXPLANATIONS)


def test_a_difference_without_a_reason_is_told() -> None:
    line = "four-level created: n_used_mmu_pages: 4 / 5"

    assert explain([line]) == ({}, [line])
