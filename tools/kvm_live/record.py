"""Records scenarios: one boot for each kernel, MMU and depth of host page tables, many scenarios in each."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmu_model.scenario import Program, Scenario, compile_scenario
from mmu_model.snapshot import MmuKind, Recording, write_recording

from .build import build
from .descriptors import descriptor_words
from .initrd import initrd
from .machine import Machine
from .packages import find_kernel
from .session import Outcome, Session


@dataclass(frozen=True)
class Boot:
    """What runs on one machine."""

    series: str
    mmu: MmuKind
    five_level: bool
    scenarios: tuple[tuple[Scenario, Program], ...]


def plan(scenarios: Sequence[Scenario], kernels: Sequence[str], mmus: Sequence[MmuKind]) -> list[Boot]:
    """Groups what is to be recorded by machine. Raises ScenarioError where one cannot be compiled."""
    compiled = [(scenario, compile_scenario(scenario)) for scenario in scenarios]
    boots = []
    for series in kernels:
        for mmu in mmus:
            for five_level in (False, True):
                fitting = tuple(
                    (scenario, program)
                    for scenario, program in compiled
                    if series in scenario.kernels
                    and mmu in scenario.kinds
                    and scenario.host.five_level == five_level
                )
                if fitting:
                    boots.append(Boot(series, mmu, five_level, fitting))
    return boots


def recording_path(folder: Path, series: str, mmu: MmuKind, name: str) -> Path:
    """Where a recording lies."""
    return folder / series / mmu.value / f"{name}.json.gz"


def record(boots: Sequence[Boot], folder: Path, progress: Callable[[str], object]) -> Iterator[str]:
    """Records everything below ``folder``; yields the failures, by which a scenario was not written.

    ``progress`` hears what runs. Raises LiveError where a machine cannot be had.
    """
    with tempfile.TemporaryDirectory(prefix="kvm-live-") as scratch_name:
        scratch = Path(scratch_name)
        init = build(scratch)
        for boot in boots:
            yield from _record(boot, folder, init, scratch, progress)


def _record(
    boot: Boot, folder: Path, init: bytes, scratch: Path, progress: Callable[[str], object]
) -> Iterator[str]:
    kernel = find_kernel(boot.series)
    programs = [p.to_bytes(descriptor_words(scenario, p)) for scenario, p in boot.scenarios]
    (scratch / "initrd").write_bytes(initrd(init, kernel, boot.mmu, programs))
    (scratch / "console").unlink(missing_ok=True)
    machine = Machine(kernel.image, scratch / "initrd", scratch / "console", five_level=boot.five_level)
    with machine:
        session = Session(machine, kernel, boot.mmu, five_level=boot.five_level)
        outcomes = session.outcomes(
            list(boot.scenarios), lambda name: progress(f"{boot.series} {boot.mmu.value} {name}")
        )
        for (scenario, program), outcome in zip(boot.scenarios, outcomes, strict=True):
            if outcome.failures:
                yield from (f"{failure} (on {boot.series}, {boot.mmu.value})" for failure in outcome.failures)
            else:
                path = recording_path(folder, boot.series, boot.mmu, scenario.name)
                write_recording(path, _recording(scenario, program, outcome))


def _recording(scenario: Scenario, program: Program, outcome: Outcome) -> Recording:
    return Recording(
        scenario=scenario.name,
        program=program.digest,
        results=tuple(outcome.results),
        snapshots=tuple(outcome.snapshots),
    )
