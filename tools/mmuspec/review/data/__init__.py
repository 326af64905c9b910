"""Facts that the checks of new text need, as YAML: no text of the kernel, and nothing of the model."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from mmuspec.yamlfile import load


@cache
def data(name: str) -> dict[str, Any]:
    """The content of one of the files here."""
    content: dict[str, Any] = load(Path(__file__).parent / f"{name}.yaml").value
    return content
