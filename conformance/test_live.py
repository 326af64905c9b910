"""Predicates and stories hold in what was recorded on real kernels, and refuse what was corrupted."""

from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path

import pytest

from conformance.live import PREDICATES, STORIES, Predicate, Story
from conformance.pictures import Camera
from mmu_model.snapshot import Recording, Snapshot, read_recording

FOLDER = Path(__file__).parent / "recordings"
KERNELS = ("6.1", "6.12")
MMUS = ("tdp", "direct", "shadow")


@cache
def recordings(kernel: str, mmu: str) -> dict[str, Recording]:
    """All of one kernel and MMU, by scenario."""
    return {path.name: read_recording(path) for path in sorted((FOLDER / kernel / mmu).glob("*.json.gz"))}


def place(kernel: str, mmu: str, *name: str) -> str:
    """How results call what was recorded: the file, and in brackets the snapshots of it."""
    file, *snapshots = name
    return f"conformance/recordings/{kernel}/{mmu}/{file}[{', '.join(snapshots)}]"


def moment(kernel: str, mmu: str, file: str, snapshot: str) -> Snapshot:
    """A snapshot by its name."""
    return next(each for each in recordings(kernel, mmu)[file].snapshots if each.name == snapshot)


def speaking(predicate: Predicate, kernel: str, mmu: str) -> Iterator[tuple[str, str]]:
    """Recordings and snapshots that have what the predicate speaks of."""
    for name, recording in recordings(kernel, mmu).items():
        for snapshot in recording.snapshots:
            if predicate.corrupt(snapshot) is not None:
                yield name, snapshot.name


def seen_live(statements: tuple[str, ...], *, refutes: bool = False) -> list[pytest.MarkDecorator]:
    """Marks for what a test shows of real kernels."""
    return [pytest.mark.spec(statement, refutes=refutes, tier="live") for statement in statements]


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "predicate", [pytest.param(each, id=each.name, marks=seen_live(each.statements)) for each in PREDICATES]
)
def test_a_predicate_holds_in_all_recordings(
    predicate: Predicate, kernel: str, mmu: str, seen: Callable[[str, str, str], None], picture: Camera
) -> None:
    found = recordings(kernel, mmu)
    assert found, "no recordings: make live"
    complaints = [
        f"{name} {snapshot.name}: {what}"
        for name, recording in found.items()
        for snapshot in recording.snapshots
        for what in predicate.check(snapshot)
    ]

    assert complaints == []
    for name, snapshot in islice(speaking(predicate, kernel, mmu), 1):
        seen("live", kernel, place(kernel, mmu, name, snapshot))
        picture(f"Recorded: {name.partition('.')[0]}, {snapshot}, {mmu}", moment(kernel, mmu, name, snapshot))


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


def told_by(story: Story, kernel: str, mmu: str) -> tuple[Snapshot, Snapshot]:
    name = f"{story.scenario}.json.gz"
    return moment(kernel, mmu, name, story.before), moment(kernel, mmu, name, story.after)


@pytest.mark.parametrize(
    ("story", "mmu", "kernel"),
    [
        pytest.param(
            story,
            mmu.value,
            kernel,
            id=f"{story.name}-{kernel}-{mmu.value}",
            marks=seen_live(story.statements, refutes=story.refutes),
        )
        for story in STORIES
        for mmu in story.mmus
        for kernel in story.kernels
    ],
)
def test_a_story_is_what_happened(
    story: Story, mmu: str, kernel: str, seen: Callable[[str, str, str], None], picture: Camera
) -> None:
    before, after = told_by(story, kernel, mmu)

    assert list(story.tell(before, after)) == []
    assert list(story.tell(before, before)), "nothing happened, and the story does not notice"
    assert list(story.tell(after, after)), "all had happened before, and the story does not notice"
    seen("live", kernel, place(kernel, mmu, f"{story.scenario}.json.gz", story.before, story.after))
    picture(f"Recorded: {story.scenario}, {story.after}, {mmu}", after, before)
