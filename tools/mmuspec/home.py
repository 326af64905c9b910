"""Where the spec folder is when nobody says so."""

from __future__ import annotations

from pathlib import Path

NAME = "spec"


def spec_directory(start: Path) -> Path:
    """``spec/`` of the nearest folder from `start` upwards that has YAML in it, else that of the repository
    which these tools are part of, or that was installed with them, else ``spec/`` in `start`."""
    here = Path(__file__).resolve()
    for folder in (start, *start.parents, here.parents[2], here.parent):
        if any((folder / NAME).glob("*.yaml")):
            return folder / NAME
    return start / NAME
