"""Schedules in files: kept, read again, and refused where they are none."""

from pathlib import Path

import pytest

from conformance.schedule.actors import adders, adds
from mmu_model.schedule import (
    ScheduleFailed,
    Step,
    WrongSchedule,
    explore,
    read_schedule,
    replay,
    write_schedule,
)


def test_a_schedule_is_written_and_read(tmp_path: Path) -> None:
    with pytest.raises(ScheduleFailed) as failed:
        explore(adders(adds))
    write_schedule(tmp_path / "lost.txt", failed.value.steps)

    with pytest.raises(ScheduleFailed) as again:
        replay(adders(adds), read_schedule(tmp_path / "lost.txt"))

    assert again.value.steps == failed.value.steps
    assert [path.name for path in tmp_path.iterdir()] == ["lost.txt"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r":1: error: a schedule begins with the line 'schedule 1'"),
        ("schedule 1\nadder 0: reads\nadder 0\n", r":3: error: 'adder 0' is no step"),
    ],
)
def test_a_file_that_is_no_schedule_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_text(text)
    with pytest.raises(WrongSchedule, match=message):
        read_schedule(path)
    with pytest.raises(WrongSchedule, match="cannot be read"):
        read_schedule(tmp_path / "none.txt")


def test_a_line_for_each_step_and_only_the_name_counts(tmp_path: Path) -> None:
    """What stands behind the first colon is for people."""
    path = tmp_path / "some.txt"
    write_schedule(
        path, [Step("vcpu 0", "runs the guest"), Step("λ", "waits for a: b"), Step("vcpu 0", "ends")]
    )

    text = path.read_text(encoding="utf-8")
    assert text == "schedule 1\nvcpu 0: runs the guest\nλ: waits for a: b\nvcpu 0: ends\n"
    assert read_schedule(path) == ("vcpu 0", "λ", "vcpu 0")
    path.write_text("schedule 1\nvcpu 0:\nvcpu 1: a: b\n")
    assert read_schedule(path) == ("vcpu 0", "vcpu 1")


@pytest.mark.parametrize("bad", [b"\xff\xfe", None])
def test_what_is_no_text_cannot_be_read(tmp_path: Path, bad: bytes | None) -> None:
    path = tmp_path / "bad.txt"
    if bad is None:
        path.mkdir()
    else:
        path.write_bytes(bad)
    with pytest.raises(WrongSchedule, match=r"bad\.txt: error: cannot be read as a schedule"):
        read_schedule(path)


def test_a_schedule_without_steps_is_one(tmp_path: Path) -> None:
    write_schedule(tmp_path / "none.txt", [])

    assert read_schedule(tmp_path / "none.txt") == ()
    with pytest.raises(WrongSchedule, match="step 1 is missing: adder 0 and adder 1 could go on") as wrong:
        replay(adders(adds), ())
    assert wrong.value.step == 1
