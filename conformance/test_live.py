"""The predicates hold in every snapshot that was recorded on a real kernel, and refuse corrupted ones."""

from functools import cache
from pathlib import Path

import pytest

from conformance.live import PREDICATES, Predicate
from mmu_model.snapshot import Recording, read_recording

FOLDER = Path(__file__).parent / "recordings"
KERNELS = ("6.1", "6.12")
MMUS = ("tdp", "direct", "shadow")


@cache
def recordings(kernel: str, mmu: str) -> dict[str, Recording]:
    """All of one kernel and MMU, by scenario."""
    return {path.name: read_recording(path) for path in sorted((FOLDER / kernel / mmu).glob("*.json.gz"))}


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("predicate", PREDICATES, ids=lambda predicate: predicate.name)
def test_a_predicate_holds_in_all_recordings(predicate: Predicate, kernel: str, mmu: str) -> None:
    found = recordings(kernel, mmu)
    assert found, "no recordings: make live"
    complaints = [
        f"{name} {snapshot.name}: {what}"
        for name, recording in found.items()
        for snapshot in recording.snapshots
        for what in predicate.check(snapshot)
    ]

    assert complaints == []


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("predicate", PREDICATES, ids=lambda predicate: predicate.name)
def test_a_predicate_refuses_corrupted_snapshots(predicate: Predicate, kernel: str) -> None:
    """Every snapshot that has what the predicate speaks of; one at least must have it."""
    corrupted = [
        (name, snapshot.name, bad)
        for mmu in MMUS
        for name, recording in recordings(kernel, mmu).items()
        for snapshot in recording.snapshots
        if (bad := predicate.corrupt(snapshot)) is not None
    ]

    assert corrupted, "no snapshot has what the predicate speaks of"
    accepted = [(name, snapshot) for name, snapshot, bad in corrupted if not list(predicate.check(bad))]
    assert accepted == []
