"""What a source hands over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# Told what long work is at, in a few words; the command line shows it on a terminal.
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Found:
    """A document as a source has it: unzipped bytes that passed `content.document_bytes`.

    `path` is its path in the kernel tree, `origin` says in a line how it was found, `release` is what the
    source says the document's release is. `settled` is false where the source may say otherwise tomorrow.
    """

    data: bytes
    path: str
    origin: str
    release: str
    settled: bool = True
