"""Two recordings, or two folders of them, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmu_model.snapshot import Recording, differences, read_recording

from .errors import LiveError

SUFFIX = ".json.gz"


def compare(first: Path, second: Path) -> Iterator[str]:
    """The differences, a line each, ``SCENARIO SNAPSHOT: ...``; none if all are equal.

    Raises LiveError where there is nothing to compare, RecordingError for a file that is no recording.
    """
    if first.is_dir() != second.is_dir():
        raise LiveError("compare two recordings, or two folders")
    if not first.is_dir():
        yield from compare_recordings(read_recording(first), read_recording(second))
        return
    names = {
        path: {str(file.relative_to(path)) for file in path.rglob(f"*{SUFFIX}")} for path in (first, second)
    }
    if not names[first] and not names[second]:
        raise LiveError(f"no recordings in {first} and {second}")
    for name in sorted(names[first] ^ names[second]):
        yield f"{name.removesuffix(SUFFIX)}: only in {first if name in names[first] else second}"
    for name in sorted(names[first] & names[second]):
        yield from compare_recordings(read_recording(first / name), read_recording(second / name))


def compare_recordings(one: Recording, two: Recording) -> Iterator[str]:
    """Results step by step, then the snapshots by name."""
    if one.scenario != two.scenario or one.program != two.program:
        yield f"{one.scenario}: made from another scenario, or from another version of it"
        return
    for left, right in zip(one.results, two.results, strict=True):
        if left != right:
            yield f"{one.scenario}: step {left.step}: {left} / {right}"
    for before, after in zip(one.snapshots, two.snapshots, strict=True):
        for line in differences(before, after):
            yield f"{one.scenario} {before.name}: {line}"
