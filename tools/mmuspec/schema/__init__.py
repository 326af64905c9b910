"""The published schemas of what this tool writes as JSON (JSON Schema, draft 2020-12)."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any, Final

NAMES: Final = ("report", "results")


def schema(name: str) -> dict[str, Any]:
    """The schema of that name, with those that it refers to inside: nothing else is needed to use it."""
    own = _read(name)
    if (other := own.get("$ref", "").split(":")[-2:-1]) and other[0] in NAMES:
        own["$defs"] = {other[0]: _read(other[0])}
    return own


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((files("mmuspec.schema") / f"{name}.json").read_text(encoding="utf-8"))
    return found
