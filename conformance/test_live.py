"""Predicates, readings, stories and accounts hold in what was recorded on real kernels, and refuse what was corrupted."""

from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import pytest

from conformance.live import (
    ACCOUNTS,
    PREDICATES,
    READINGS,
    STORIES,
    Account,
    Predicate,
    Reading,
    Story,
)
from conformance.live.guest import memories, program_of
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


Check: TypeAlias = Predicate | Reading
CHECKS: list[Check] = [*PREDICATES, *READINGS]


def complaints(check: Check, recording: Recording, snapshot: Snapshot) -> Iterator[str]:
    """What a predicate, or a reading by what lay in the guest's memory then, has against a snapshot."""
    if isinstance(check, Predicate):
        return check.check(snapshot)
    return check.check(snapshot, memories(recording.scenario)[snapshot.name])


def speaking(check: Check, kernel: str, mmu: str) -> Iterator[tuple[str, str]]:
    """Recordings and snapshots that have what the check speaks of."""
    for name, recording in recordings(kernel, mmu).items():
        for snapshot in recording.snapshots:
            if check.corrupt(snapshot) is not None:
                yield name, snapshot.name


def seen_live(statements: tuple[str, ...], *, refutes: bool = False) -> list[pytest.MarkDecorator]:
    """Marks for what a test shows of real kernels."""
    return [pytest.mark.spec(statement, refutes=refutes, tier="live") for statement in statements]


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "check", [pytest.param(each, id=each.name, marks=seen_live(each.statements)) for each in CHECKS]
)
def test_a_predicate_holds_in_all_recordings(
    check: Check, kernel: str, mmu: str, seen: Callable[[str, str, str], None], picture: Camera
) -> None:
    found = recordings(kernel, mmu)
    assert found, "no recordings: make live"
    contradictions = [
        f"{name} {snapshot.name}: {what}"
        for name, recording in found.items()
        for snapshot in recording.snapshots
        for what in complaints(check, recording, snapshot)
    ]

    assert contradictions == []
    for name, snapshot in islice(speaking(check, kernel, mmu), 1):
        seen("live", kernel, place(kernel, mmu, name, snapshot))
        picture(f"Recorded: {name.partition('.')[0]}, {snapshot}, {mmu}", moment(kernel, mmu, name, snapshot))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_predicate_refuses_corrupted_snapshots(check: Check, kernel: str) -> None:
    """Every snapshot that has what the predicate speaks of; one at least must have it."""
    corrupted = [
        (name, recording, bad)
        for mmu in MMUS
        for name, recording in recordings(kernel, mmu).items()
        for snapshot in recording.snapshots
        if (bad := check.corrupt(snapshot)) is not None
    ]

    assert corrupted, "no snapshot has what the predicate speaks of"
    accepted = [
        (name, bad.name)
        for name, recording, bad in corrupted
        if next(complaints(check, recording, bad), None) is None
    ]
    assert accepted == []


@pytest.mark.parametrize("mmu", MMUS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_what_lay_in_guest_memory_is_known(kernel: str, mmu: str) -> None:
    """The recordings were made with the programs that the readings replay, and have the same snapshots."""
    for recording in recordings(kernel, mmu).values():
        assert recording.program == program_of(recording.scenario).digest
        assert [snapshot.name for snapshot in recording.snapshots] == list(memories(recording.scenario))


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


@pytest.mark.parametrize(
    ("account", "mmu", "kernel"),
    [
        pytest.param(
            account,
            mmu.value,
            kernel,
            id=f"{account.name}-{kernel}-{mmu.value}",
            marks=seen_live(account.statements),
        )
        for account in ACCOUNTS
        for mmu in account.mmus
        for kernel in account.kernels
    ],
)
def test_an_account_is_what_was_recorded(
    account: Account, mmu: str, kernel: str, seen: Callable[[str, str, str], None]
) -> None:
    name = f"{account.scenario}.json.gz"
    recording = recordings(kernel, mmu)[name]

    assert list(account.tell(recording)) == []
    assert list(account.tell(account.falsify(recording))), "it says the same of a recording of something else"
    seen("live", kernel, place(kernel, mmu, name, *(snapshot.name for snapshot in recording.snapshots)))
