"""Evidence that lies in recordings of real kernels, told as a reader asks for it: which scenario, where, when."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mmuspec.results import Evidence
from mmuspec.version import version_key

RECORDING = re.compile(
    r"(?P<path>.*recordings/(?P<kernel>[^/\[\]]+)/(?P<mmu>[^/\[\]]+)/(?P<scenario>[^/\[\]]+?)\.json(?:\.gz)?)"
    r"(?:\[(?P<snapshots>.*)\])?"
)


@dataclass(frozen=True, slots=True)
class Recorded:
    """One recording: its file as results name it, and what it is a recording of."""

    path: str
    kernel: str
    mmu: str


@dataclass(frozen=True, slots=True)
class Scene:
    """A moment of a scenario (`snapshots` are the names of those looked at), and the recordings that have it."""

    scenario: str
    snapshots: str
    recordings: tuple[Recorded, ...]

    @property
    def source(self) -> str:
        """The file of the scenario, beside the folder of the recordings."""
        return f"{self.recordings[0].path.rpartition('recordings/')[0]}scenarios/{self.scenario}.yaml"


def is_recording(evidence: Evidence) -> bool:
    """Whether it lies in the recording of a scenario."""
    return RECORDING.fullmatch(evidence.where) is not None


def scenes(evidence: Iterable[Evidence]) -> tuple[Scene, ...]:
    """What of `evidence` lies in recordings, by scenario and moment."""
    found: dict[tuple[str, str], set[Recorded]] = {}
    for each in evidence:
        if match := RECORDING.fullmatch(each.where):
            key = match["scenario"], match["snapshots"] or ""
            found.setdefault(key, set()).add(Recorded(match["path"], match["kernel"], match["mmu"]))
    return tuple(
        Scene(scenario, snapshots, tuple(sorted(recordings, key=lambda r: (version_key(r.kernel), r.mmu))))
        for (scenario, snapshots), recordings in sorted(found.items())
    )
