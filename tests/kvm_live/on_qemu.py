"""Guests that go wrong, on a real kernel in QEMU. Not collected with the rest: .ci/live names this file."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from click.testing import CliRunner, Result

from kvm_live.cli import main
from tests.docs.pages import commands

Record: TypeAlias = Callable[..., Result]

HEAD = """\
title: A guest that goes wrong.
mode: 4-level
memory:
  1: {base: 2M, size: 2M}
tables:
  main:
    - {at: 0x40000000, to: 2M}
steps:
"""
GOOD = HEAD + "  - write: 0x40000000\n  - snapshot: end\n"


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    """Records scenarios given by name and text, the good one after them."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def run(**scenarios: str) -> Result:
        paths = []
        for name, text in {**scenarios, "good": GOOD}.items():
            paths.append(tmp_path / f"{name}.yaml")
            paths[-1].write_text(text)
        output = ["-o", str(tmp_path / "out"), "--kernel", "6.12", "--mmu", "shadow"]
        return CliRunner().invoke(main, ["record", *output, *map(str, paths)])

    return run


def test_guests_that_go_wrong_are_told_and_the_others_recorded(record: Record, tmp_path: Path) -> None:
    result = record(
        # the page with the descriptors goes, then a fault
        triple=HEAD + "  - set_entry: {in: main, at: 0x2000, level: 1, clear: true}\n"
        "  - invlpg: 0x2000\n  - read: {at: 0x50000000, fault: true}\n  - snapshot: end\n",
        # jumps to a jump to itself: eb fe
        endless=HEAD
        + "  - write: {at: 0x40000000, value: 0xfeeb}\n  - fetch: 0x40000000\n  - snapshot: end\n",
        unmeant=HEAD + "  - read: 0x50000000\n  - snapshot: end\n",
        harmless=HEAD + "  - read: {at: 0x40000000, fault: true}\n  - snapshot: end\n",
    )

    lines = result.stderr.strip().split("\n")
    assert result.exit_code == 2
    assert len(lines) == 4, result.stderr
    assert lines[0].startswith(f"{tmp_path}/triple.yaml:11: error: triple fault at step 2 ")
    assert lines[1].startswith(f"{tmp_path}/endless.yaml:10: error: the guest does not end at step 1 ")
    assert lines[2].startswith(f"{tmp_path}/unmeant.yaml:9: error: the step faulted; write 'fault: true'")
    assert lines[3].startswith(f"{tmp_path}/harmless.yaml:9: error: the step should fault and did not")
    assert [path.name for path in tmp_path.rglob("*.gz*")] == ["good.json.gz"]
    assert not list(tmp_path.glob("kvm-live-*"))
    assert Path(f"/proc/self/task/{os.getpid()}/children").read_text() == ""


def test_recording_twice_gives_the_same_bytes(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "out" / "6.12" / "shadow" / "good.json.gz"
    assert record().exit_code == 0
    once = path.read_bytes()
    path.unlink()

    assert record().exit_code == 0
    assert path.read_bytes() == once


@pytest.mark.parametrize(
    "command",
    [command for _, command in commands("live") if command != "kvm-live record"],  # that is `make live`
)
def test_what_the_pages_tell_to_record(command: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [*command.split()[1:], "-o", str(tmp_path)])
    assert result.exit_code == 0, result.stderr
    assert list(tmp_path.rglob("*.json.gz"))
