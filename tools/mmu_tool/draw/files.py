"""Drawings on disk: names that any file system takes, files that are whole or not there."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from mmu_model.snapshot import Recording

LONGEST: Final = 60
OTHER: Final = re.compile(r"[^A-Za-z0-9._-]+")


def file_names(recording: Recording) -> list[str]:
    """A name for the drawing of each snapshot: ``quadrants-02-both-halves.svg``."""
    scenario = _plain(recording.scenario) or "recording"
    return [
        "-".join(filter(None, (scenario, f"{number:02}", _plain(snapshot.name)))) + ".svg"
        for number, snapshot in enumerate(recording.snapshots, 1)
    ]


def chosen(names: Sequence[str], step: str) -> int | None:
    """The place of a snapshot, by name or by number from 1 on; None if there is none such."""
    if step in names:
        return names.index(step)
    number = int(step) if step.isascii() and step.isdigit() and len(step) < 10 else 0
    return number - 1 if 0 < number <= len(names) else None


def write_files(folder: Path, files: Mapping[str, str]) -> list[Path]:
    """Write all or, if something goes wrong, none; gives the paths. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    places = {folder / f".writing-{os.getpid()}-{name}": folder / name for name in files}
    with ExitStack() as clean_up:
        for beside, content in zip(places, files.values(), strict=True):
            clean_up.callback(_remove, beside)  # before it is there: an interruption may come at any moment
            beside.write_text(content, encoding="utf-8")
        for beside, path in places.items():
            beside.replace(path)
    return list(places.values())


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _plain(name: str) -> str:
    return OTHER.sub("-", name)[:LONGEST].strip("-.")
