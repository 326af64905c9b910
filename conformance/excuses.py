"""Where the model rightly differs from a recording: what is overlooked in the comparison, and why.

An excuse brings both sides into a form in which what it is about looks the same. There is none for what KVM
does; whoever adds one says which rule makes the difference right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from mmu_model.hardware.faults import ERROR_P, ERROR_RSVD
from mmu_model.snapshot import MmuKind, Recording, StepResult, Word


@dataclass(frozen=True)
class Excuse:
    """`level` is applied to model and recording alike, on these MMUs."""

    rule: str
    reason: str
    mmus: tuple[MmuKind, ...]
    level: Callable[[Recording], Recording]


def _reserved_is_present(recording: Recording) -> Recording:
    return replace(recording, results=tuple(map(_with_present, recording.results)))


def _with_present(result: StepResult) -> StepResult:
    if result.error_code is None or not result.error_code & ERROR_RSVD:
        return result
    return replace(result, error_code=Word(result.error_code | ERROR_P))


EXCUSES = (
    Excuse(
        rule="a page fault for a reserved bit says that the entry is present",
        reason="SDM vol. 3, 4.7: RSVD is set only if P is. QEMU, whose processor the recordings were made on, "
        "leaves P clear. Under shadow paging the fault is KVM's, and is right.",
        mmus=(MmuKind.TDP, MmuKind.DIRECT),
        level=_reserved_is_present,
    ),
)


def excused(mmu: MmuKind, modelled: Recording, recorded: Recording) -> tuple[Recording, Recording]:
    """Both, with every excuse made that there is for this MMU."""
    for excuse in EXCUSES:
        if mmu in excuse.mmus:
            modelled, recorded = excuse.level(modelled), excuse.level(recorded)
    return modelled, recorded
