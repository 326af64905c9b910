"""`mmu-model draw`, and `mmu-model run --draw`."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from mmu_model.snapshot.recording import _digest, to_json
from mmu_tool.cli import main
from mmu_tool.draw import draw
from mmu_tool.draw.files import chosen, file_names
from tests.mmu_tool.draw.states import RECORDINGS, moment, recorded

UNSYNC = RECORDINGS / "6.12" / "shadow" / "unsync.json.gz"
SCENARIO = RECORDINGS.parent / "scenarios" / "unsync.yaml"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


def test_a_recording_is_drawn_a_file_for_each_snapshot(tmp_path: Path) -> None:
    result = run("draw", UNSYNC, "-o", tmp_path / "new" / "folder")

    names = file_names(recorded("unsync"))
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [str(tmp_path / "new" / "folder" / name) for name in names]
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == names
    assert names[1] == "unsync-02-out-of-sync.svg"
    for name in names:
        ElementTree.fromstring((tmp_path / "new" / "folder" / name).read_text())


def test_the_model_draws_what_the_kernel_does(tmp_path: Path) -> None:
    """The scenario run on the model gives the very same pictures as the recording of the real kernel."""
    run("draw", UNSYNC, "-o", tmp_path / "kernel")
    result = run("run", SCENARIO, "--mmu", "shadow", "--draw", tmp_path / "model")

    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in (tmp_path / "kernel").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "model").iterdir())
    for name in names:
        assert (tmp_path / "kernel" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


def test_what_run_writes_draw_reads(tmp_path: Path) -> None:
    for name in ("out.json", "out.json.gz"):
        run("run", SCENARIO, "--mmu", "shadow", "-o", tmp_path / name, "--draw", tmp_path / "pictures")
        assert run("draw", tmp_path / name, "-o", tmp_path / name.replace(".", "-")).exit_code == 0

    assert len(list((tmp_path / "pictures").iterdir())) == len(recorded("unsync").snapshots)


@pytest.mark.parametrize("step", ["2", "out-of-sync"])
def test_one_step_alone_says_what_changed_too(tmp_path: Path, step: str) -> None:
    result = run("draw", UNSYNC, "-o", tmp_path, "--step", step)

    assert result.stdout == f"{tmp_path / 'unsync-02-out-of-sync.svg'}\n"
    expected = draw(moment("unsync", "out-of-sync"), moment("unsync", "in-sync"), title="unsync: out-of-sync")
    assert (tmp_path / "unsync-02-out-of-sync.svg").read_text() == expected.svg


def test_in_words(tmp_path: Path) -> None:
    result = run("draw", UNSYNC, "--step", "1", "--text", "-o", tmp_path)

    assert result.stdout.startswith("unsync: in-sync\nLinux 6.12, shadow paging; ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["0", "99", "nope", "", "-1", "1" * 50, "²"])
def test_a_step_that_there_is_not(tmp_path: Path, step: str) -> None:
    result = run("draw", UNSYNC, "-o", tmp_path, f"--step={step}")

    assert result.exit_code == 2
    assert result.stderr.startswith(f"{UNSYNC}: error: no snapshot {step!r}; there are 'in-sync', ")
    assert list(tmp_path.iterdir()) == []


def edited(path: Path, **fields: object) -> Path:
    """`unsync` with something else in its first snapshot's first page, and the right digest."""
    body = json.loads(to_json(recorded("unsync")))
    body["snapshots"][0]["pages"][0].update(fields)
    rest = {name: value for name, value in body.items() if name not in ("schema", "digest")}
    path.write_text(json.dumps({**body, "digest": _digest(rest)}))
    return path


def test_bad_recordings(tmp_path: Path) -> None:
    good = UNSYNC.read_bytes()
    (tmp_path / "cut.json.gz").write_bytes(good[: len(good) // 2])
    (tmp_path / "other.json").write_text("[1, 2]")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "newer.json.gz").write_bytes(gzip.compress(b'{"schema": 99}'))
    for bad in (
        *sorted(tmp_path.glob("*.*")),
        tmp_path,
        tmp_path / "absent.json.gz",
        edited(tmp_path / "twice.json", id=1),
        edited(tmp_path / "wide.json", gfn="0x" + "f" * 5000),
        edited(tmp_path / "negative.json", gfn="-0x1"),
    ):
        result = run("draw", bad, "-o", tmp_path / "out")
        assert result.exit_code == 2, bad
        assert result.stderr.startswith(f"{bad}: error: ") and len(result.stderr) < 400
        assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")

    for command in (("draw", UNSYNC, "-o"), ("run", SCENARIO, "--draw")):
        result = run(*command, tmp_path / "file" / "below")
        assert result.exit_code == 2
        assert "error: " in result.stderr and "Traceback" not in result.output
    assert (tmp_path / "file").read_text() == "mine"


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_self: Path, _target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    result = run("draw", UNSYNC, "-o", tmp_path)

    assert result.exit_code != 0
    assert list(tmp_path.iterdir()) == []


def test_steps_are_named_or_numbered() -> None:
    assert chosen(["a", "2", "c"], "2") == 1
    assert chosen(["a", "b", "c"], "3") == 2
    assert chosen([], "1") is None
