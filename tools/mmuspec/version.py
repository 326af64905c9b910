"""The order of kernel releases: 6.2 comes before 6.12."""

from __future__ import annotations

import re


def version_key(release: str) -> tuple[tuple[int, str], ...]:
    """A key to sort releases by: numbers as numbers, everything else as text."""
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"[.-]", release))
