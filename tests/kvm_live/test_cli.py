"""``kvm-live`` from outside, with a program in the place of QEMU that says what the test wants."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kvm_live import cli, machine
from kvm_live.cli import main
from kvm_live.packages import cache_folder
from mmu_model.snapshot import Word, read_recording, write_recording

RECORDINGS = Path(__file__).parents[2] / "conformance" / "recordings"
ONE = RECORDINGS / "6.12" / "shadow" / "four-level.json.gz"
OTHER = RECORDINGS / "6.1" / "shadow" / "four-level.json.gz"

GOOD_FLAGS = "echo '@@FLAGS flags : fpu svm npt nx'"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cached kernel that is none, and a place for programs that comes first in PATH."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    folder = cache_folder() / "6.12"
    folder.mkdir(parents=True)
    for name in ("vmlinuz", "kvm.ko", "kvm-amd.ko"):
        (folder / name).write_bytes(b"file")
    (folder / "release").write_text("6.12.9-test\n")
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setattr(machine, "SILENCE", 1.5)
    return tmp_path


def be_qemu(world: Path, script: str) -> None:
    """The script also notes its process id."""
    path = world / "tools" / machine.QEMU
    path.write_text(f"#!/bin/sh\necho $$ > {world}/pid\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def record(world: Path, *arguments: str) -> Result:
    output = ["-o", str(world / "out"), "--kernel", "6.12", "--mmu", "shadow"]
    return CliRunner().invoke(main, ["record", *output, *arguments])


def nothing_is_left(world: Path) -> None:
    assert not list(world.glob("kvm-live-*"))
    assert not list(world.glob("out/**/*.gz*"))
    if (world / "pid").exists():
        with pytest.raises(ProcessLookupError):
            os.kill(int((world / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'bad machine type' >&2; exit 1", "the machine ended\n  bad machine type"),
        ("sleep 600", "the machine has been silent for 2 s"),
        (
            "echo '@@FLAGS flags : fpu nx'; echo '@@READY'; sleep 600",
            "CPU has no svm, npt; install QEMU 7 or newer",
        ),
        (
            f"{GOOD_FLAGS}; echo '@@NPT 1'; echo '@@TDP_MMU N'; echo @@READY; sleep 600",
            "has npt=1 tdp_mmu=N for shadow",
        ),
        (
            f"{GOOD_FLAGS}; echo '@@NPT 0'; echo '@@TDP_MMU N'; echo @@READY; sleep 600",
            "kernel 6.12.9-test was built without BTF (CONFIG_DEBUG_INFO_BTF)",
        ),
        (
            f"{GOOD_FLAGS}; echo '@@NPT 0'; echo '@@TDP_MMU N'\n"
            "echo '@@SYMBOL __start_BTF ffffffff81000000'; echo @@READY; sleep 600",
            "kernel 6.12.9-test has no symbol 'init_top_pgt' in /proc/kallsyms",
        ),
        (
            "echo '@@FAIL the kernel refuses the module kvm.ko tdp_mmu=0: No such device'; sleep 600",
            "kernel 6.12.9-test: the kernel refuses",
        ),
        (
            f"{GOOD_FLAGS}; echo '@@NPT 0'; echo '@@TDP_MMU N'\n"
            "for s in init_top_pgt page_offset_base vmemmap_base __start_BTF __stop_BTF vm_list; do\n"
            'echo "@@SYMBOL $s ffffffff81000000"; done; echo @@READY; sleep 600',
            "kernel 6.12.9-test cannot be decoded: ",
        ),
    ],
)
def test_a_machine_that_fails_is_told_and_ended(world: Path, script: str, message: str) -> None:
    be_qemu(world, script)

    result = record(world, "four-level")

    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
    assert result.stderr.startswith("kvm-live: error: ")
    nothing_is_left(world)


def test_without_qemu_it_says_what_to_install(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "QEMU", "qemu-that-nobody-has")

    result = record(world, "four-level")

    assert result.exit_code == 2
    assert "no qemu-that-nobody-has; install it (Debian: apt-get install qemu-system-x86)" in result.stderr
    nothing_is_left(world)


def test_too_little_memory_is_said_before_anything_starts(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_qemu(world, "sleep 600")
    monkeypatch.setattr(machine, "MEBIBYTES", 1 << 40)

    result = record(world, "four-level")

    assert result.exit_code == 2
    assert "not enough free memory" in result.stderr
    nothing_is_left(world)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing(world: Path, number: signal.Signals) -> None:
    be_qemu(world, "sleep 600")
    program = "from kvm_live.cli import main; main()"
    arguments = ["record", "--kernel", "6.12", "--mmu", "shadow", "-o", str(world / "out"), "four-level"]
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE)
    while not (world / "pid").exists() or not (world / "pid").read_text():
        assert process.poll() is None
        time.sleep(0.05)

    process.send_signal(number)
    _, said = process.communicate(timeout=20)

    assert (process.returncode, said.decode()) == (2, "kvm-live: error: interrupted\n")
    nothing_is_left(world)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no scenario nothing; known are aliases, "),
        (["nested-npt"], "nested-npt.yaml:1: error: this scenario does not run on the MMU shadow"),
    ],
)
def test_a_scenario_that_cannot_run_is_told_before_anything_starts(
    world: Path, arguments: list[str], message: str
) -> None:
    be_qemu(world, "sleep 600")

    result = record(world, *arguments)

    assert result.exit_code == 2
    assert message in result.stderr
    assert not (world / "pid").exists()


def test_a_scenario_with_an_error_is_told_with_its_line(world: Path) -> None:
    path = world / "bad.yaml"
    path.write_text("title: A.\nmode: 7-level\nsteps: []\n")

    result = record(world, str(path))

    assert result.exit_code == 2
    assert result.stderr.startswith(f"{path}:2: error: '7-level' is none of ")


def test_equal_recordings_compare_as_equal(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["compare", str(ONE), str(ONE)])
    assert (result.exit_code, result.output) == (0, "")

    copy = tmp_path / "copy" / "four-level.json.gz"
    write_recording(copy, read_recording(ONE))
    result = CliRunner().invoke(main, ["compare", str(ONE.parent), str(copy.parent)])
    assert result.exit_code == 1
    assert f"aliases: only in {ONE.parent}" in result.output
    assert "four-level" not in result.output


def test_differences_are_listed_with_scenario_and_snapshot(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["compare", str(OTHER), str(ONE)])
    assert result.exit_code == 1
    assert "four-level created: empty_spte: 0 / 0x8000000000000000\n" in result.output

    recording = read_recording(ONE)
    changed = replace(recording.results[0], value=Word(1))
    path = tmp_path / "four-level.json.gz"
    write_recording(path, replace(recording, results=(changed, *recording.results[1:])))
    result = CliRunner().invoke(main, ["compare", str(ONE), str(path)])
    assert result.output.startswith("four-level: step ")

    write_recording(path, replace(recording, program="0" * 64))
    result = CliRunner().invoke(main, ["compare", str(ONE), str(path)])
    assert "made from another scenario, or from another version of it" in result.output


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (ONE, ONE.parent, "kvm-live: error: compare two recordings, or two folders"),
        (ONE, ONE.parent / "none.json.gz", "none.json.gz: error: cannot read the recording: No such file"),
        (Path(cli.__file__).parent, Path(cli.__file__).parent, "kvm-live: error: no recordings in "),
    ],
)
def test_what_cannot_be_compared_is_an_error(first: Path, second: Path, message: str) -> None:
    result = CliRunner().invoke(main, ["compare", str(first), str(second)])

    assert result.exit_code == 2
    assert message in result.stderr
