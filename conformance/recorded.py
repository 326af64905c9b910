"""The model held against what real kernels did: every scenario, kernel and MMU that there is a recording of."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache
from itertools import zip_longest
from pathlib import Path

from conformance.excuses import excused
from mmu_model.run import run_scenario
from mmu_model.scenario import Scenario, read_scenario
from mmu_model.snapshot import MmuKind, Recording, RecordingError, differences, read_recording

FOLDER = Path(__file__).parent


class Outcome(Enum):
    """How the model and a recording stand to each other."""

    EQUAL = "equal"
    EXCUSED = "equal but for an excuse"
    DIFFERS = "differs"
    FAILS = "fails"


@dataclass(frozen=True, order=True)
class Case:
    """One scenario on one kernel and one MMU."""

    scenario: str
    kernel: str
    mmu: str

    def __str__(self) -> str:
        return f"{self.scenario} {self.kernel} {self.mmu}"

    @property
    def path(self) -> Path:
        """Its recording."""
        return FOLDER / "recordings" / self.kernel / self.mmu / f"{self.scenario}.json.gz"


@dataclass(frozen=True)
class Verdict:
    """What came of a case; `lines` are the differences, or why the model could not run."""

    case: Case
    outcome: Outcome
    lines: tuple[str, ...] = ()


@cache
def scenario_named(name: str) -> Scenario:
    """The project's scenario of that name."""
    return read_scenario(FOLDER / "scenarios" / f"{name}.yaml")


def cases(names: tuple[str, ...] = ()) -> list[Case]:
    """All of these scenarios, or of all that there are, that ought to be recorded."""
    names = names or tuple(sorted(path.stem for path in (FOLDER / "scenarios").glob("*.yaml")))
    return [
        Case(name, kernel, mmu.value)
        for name in names
        for mmu in scenario_named(name).kinds
        for kernel in scenario_named(name).kernels
    ]


def judge(case: Case) -> Verdict:
    """Run the model and compare."""
    try:
        recorded = read_recording(case.path)
        modelled = run_scenario(scenario_named(case.scenario), case.kernel, MmuKind(case.mmu))
    except RecordingError as error:
        return Verdict(case, Outcome.FAILS, (str(error),))
    except Exception as failure:  # whatever goes wrong in the model is what this is to find
        where = traceback.extract_tb(failure.__traceback__)[-1]
        line = f"{type(failure).__name__}: {failure} ({Path(where.filename).name}:{where.lineno})"
        return Verdict(case, Outcome.FAILS, (line,))
    if lines := tuple(compare(*excused(MmuKind(case.mmu), modelled, recorded))):
        return Verdict(case, Outcome.DIFFERS, lines)
    return Verdict(case, Outcome.EQUAL if modelled == recorded else Outcome.EXCUSED)


def compare(modelled: Recording, recorded: Recording) -> Iterator[str]:
    """The differences, a line each, the model's value first: results of steps, then snapshots in order."""
    if modelled.program != recorded.program:
        yield "recorded from another version of the scenario: record it again"
        return
    for ours, real in zip_longest(modelled.results, recorded.results):
        if ours != real:
            yield f"result: {ours} / {real}"
    for mine, theirs in zip_longest(modelled.snapshots, recorded.snapshots):
        if mine is None or theirs is None:
            yield f"snapshot {(mine or theirs).name}: only in one"
            continue
        for line in differences(mine, theirs):
            yield f"{mine.name}: {line}"
