"""Files written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from mmuspec.errors import Problem


def write(path: Path, content: str | bytes) -> None:
    """Write one file: beside its place first, then renamed over it. Raises `Problem` if that cannot be."""
    replace(path.parent, {path.name: content})


def replace(directory: Path, files: Mapping[str, str | bytes], pattern: str | None = None) -> None:
    """Write `files` into `directory`; of those there that match `pattern` remove the others.

    Every file is complete beside its place before the first one is renamed, so that an interruption, a full
    disk or an error leaves what was there before.
    """
    written: list[tuple[Path, Path]] = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            beside = directory / f".writing-{uuid4().hex}"
            written.append(
                (beside, directory / name)
            )  # before it is there, or an interruption could leave it
            with beside.open("xb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
        for beside, place in written:
            beside.replace(place)
        for old in set(directory.glob(pattern)) - {place for _, place in written} if pattern else ():
            old.unlink()
    except OSError as error:
        raise Problem(f"cannot be written: {error.strerror or error}", error.filename or directory) from None
    finally:
        for beside, _ in written:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
