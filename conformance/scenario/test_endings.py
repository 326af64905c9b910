"""What ends the run of a scenario before its time, and what is said of accesses that went otherwise than meant."""

from dataclasses import replace
from pathlib import Path

import pytest

from conformance.scenario.short_scenarios import Reader, with_steps
from mmu_model.run import RunError, run_scenario, unexpected
from mmu_model.snapshot import MmuKind


@pytest.mark.parametrize(
    ("steps", "line", "message"),
    [
        (["get_dirty_log: 1"], 9, "KVM refuses it: .* has no dirty log"),
        (["read: 0", "delete_slot: 1", "get_dirty_log: 1"], 11, "KVM refuses it: there is no memory slot 1"),
        (
            ["delete_slot: 1", "clear_dirty_log: {slot: 1, page: 0, count: 1}"],
            10,
            "there is no memory slot 1",
        ),
        (["slot: {id: 1, size: 1M}"], 9, "KVM refuses it: memory slot 1 has its size for good"),
        (["slot: {id: 1, readonly: true}"], 9, "KVM refuses it: memory slot 1"),
        (["delete_slot: 1", "delete_slot: 1"], 10, "KVM refuses it: memory slot 1"),
        (["smm:\n    - read: 0\n    - slot: {id: 1, size: 1M}"], 11, "KVM refuses it: memory slot 1"),
        (
            ["read: 0", "read: 0x40000004"],
            10,
            "the guest cannot go on: 8 bytes at 0x40000004 cross a multiple",
        ),
        (["write: {at: 0x40000, value: 0}", "snapshot: x"], 10, "the guest cannot go on: "),
    ],
)
def test_what_cannot_be_done_ends_the_run_there(
    read: Reader, mmu: MmuKind, tmp_path: Path, steps: list[str], line: int, message: str
) -> None:
    with pytest.raises(RunError, match=message) as ended:
        run_scenario(read(with_steps(*steps)), "6.12", mmu)
    assert str(ended.value).startswith(f"{tmp_path / 'some.yaml'}:{line}: error: ")


def test_accesses_that_went_otherwise_than_meant_are_told(read: Reader, tmp_path: Path) -> None:
    scenario = read(
        with_steps(
            *("read: 0x50000000", "read: {at: 0x50000000, fault: true}", "snapshot: x"),
            *("smm:\n    - read: 0", "read: {at: 0x40000000, fault: true}", "read: 0x40000000"),
        )
    )
    given = run_scenario(scenario, "6.1", MmuKind.DIRECT)

    assert unexpected(scenario, given) == [
        f"{tmp_path / 'some.yaml'}:9: error: the access faulted; write 'fault: true' if it should",
        f"{tmp_path / 'some.yaml'}:14: error: the access should fault and did not",
    ]
    assert unexpected(scenario, replace(given, results=())) == [
        f"{tmp_path / 'some.yaml'}:{line}: error: the access should fault and did not" for line in (10, 14)
    ]
