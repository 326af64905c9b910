"""Files of recordings: what is read is what was written, and nothing else is taken for a recording."""

import gzip
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conformance.snapshot.handmade import page, root, two_levels
from mmu_model.snapshot import (
    SCHEMA,
    Address,
    Gfn,
    Memslot,
    PageId,
    Pfn,
    Recording,
    RecordingError,
    ReverseMap,
    SpteAt,
    StepResult,
    Word,
    canonical,
    read_recording,
    write_recording,
)


@pytest.fixture
def recording() -> Recording:
    """One with each kind of content."""
    results = (
        StepResult(4, value=Word(5)),
        StepResult(6, vector=14, error_code=Word(2), cr2=Address(0x1000)),
        StepResult(7, dirty=(3, 10)),
        StepResult(8, dirty=()),
    )
    state = canonical(two_levels(1, 2, 0x100, 0x555))
    with_translation = replace(state.pages[1].entries[0], shadowed_translation=Word(0x7007))
    last = replace(state.pages[1], entries=(with_translation,), has_shadowed_translation=True)
    slot = Memslot(
        as_id=1,
        id=12,
        base_gfn=Gfn(0x200),
        npages=0x100,
        flags=1,
        backing=0x20,
        dirty=(Gfn(1), Gfn(0xFF)),
        disallow_lpage=((2, 0, 1),),
        gfn_write_track=((Gfn(0x210), 2),),
        rmap=(ReverseMap(Gfn(0x200), 1, (SpteAt(PageId(1), 3),)),),
    )
    pae = replace(state.vcpus[0].root_mmu, pae_root=(None, PageId(0)), prev_roots=(root(1),))
    linked = replace(page(2, 1, 3), tdp_mmu_page=True, parent_ptes=None, ptep=SpteAt(PageId(0), 9))
    state = replace(
        state,
        pages=(state.pages[0], last, linked),
        memslots=(slot, replace(slot, as_id=0, dirty=None)),
        vcpus=(replace(state.vcpus[0], root_mmu=pae),),
    )
    return Recording("some", "ab" * 32, results, (state, replace(state, name="second")))


@pytest.fixture
def path(recording: Recording, tmp_path: Path) -> Path:
    """Its file."""
    there = tmp_path / "6.12" / "some.json.gz"
    write_recording(there, recording)
    return there


def body(path: Path) -> dict[str, Any]:
    found = json.loads(gzip.decompress(path.read_bytes()))
    assert isinstance(found, dict)
    return found


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Change what is in the file, and nothing else."""
    spoilt = body(path)
    change(spoilt)
    path.write_bytes(gzip.compress(json.dumps(spoilt).encode()))


def sign(whole: dict[str, Any]) -> None:
    """Give it the digest that belongs to it: the sha256 of the rest with its keys sorted."""
    rest = {key: value for key, value in whole.items() if key not in ("schema", "digest")}
    whole["digest"] = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


@pytest.mark.parametrize("compress", [True, False])
def test_a_recording_reads_as_it_was_written(path: Path, recording: Recording, compress: bool) -> None:
    """The same bytes each time, and no other file is left."""
    write_recording(path, recording, compress=compress)
    once = path.read_bytes()
    write_recording(path, recording, compress=compress)

    assert read_recording(path) == recording
    assert path.read_bytes() == once
    assert once.startswith(b"\x1f\x8b") is compress
    assert list(path.parent.iterdir()) == [path]


def test_where_nothing_can_be_written_nothing_is_left(recording: Recording, tmp_path: Path) -> None:
    taken = tmp_path / "some.json.gz"
    taken.mkdir()

    with pytest.raises(IsADirectoryError):
        write_recording(taken, recording)
    assert list(tmp_path.iterdir()) == [taken]


def test_bit_patterns_are_in_hex_and_counts_are_not(path: Path) -> None:
    """A role and an entry are spelt out for people; what is not there is left out."""
    whole = body(path)
    first = whole["snapshots"][0]

    assert whole["schema"] == SCHEMA == 1
    assert whole["scenario"] == "some"
    assert whole["results"] == [
        {"step": 4, "value": "0x5"},
        {"step": 6, "vector": 14, "error_code": "0x2", "cr2": "0x1000"},
        {"step": 7, "dirty": [3, 10]},
        {"step": 8, "dirty": []},
    ]
    assert first["mmu"] == "shadow"
    assert first["memslots"][0] == {
        "as_id": 1,
        "id": 12,
        "base_gfn": "0x200",
        "npages": 256,
        "flags": 1,
        "backing": 32,
        "dirty": ["0x1", "0xff"],
        "disallow_lpage": [[2, 0, 1]],
        "gfn_write_track": [["0x210", 2]],
        "rmap": [{"gfn": "0x200", "level": 1, "sptes": [{"page": 1, "index": 3}]}],
    }
    assert "dirty" not in first["memslots"][1]
    assert first["vcpus"][0]["root_mmu"]["pae_root"] == [None, 0]
    assert first["pages"][1]["role_word"] == "0x701 level=1 access=7"
    assert first["pages"][0]["entries"] == {"9": "0x0000000000001827 table pfn 0x1 rwxu A-"}
    assert first["pages"][1]["entries"] == {"3": "0x0000000000002e67 leaf pfn 0x2 rwxu AD host mmu = 0x7007"}


def test_words_for_people_are_not_read(path: Path, recording: Recording) -> None:
    """A reading that says something else, or none: the word counts."""

    def change(whole: Any) -> None:
        pages = whole["snapshots"][0]["pages"]
        pages[0]["entries"]["9"] = "0x1827"
        pages[1]["entries"]["3"] = "0x2e67 nonsense = 0x7007"
        pages[1]["role_word"] = "0x701"
        sign(whole)

    edit(path, change)
    assert read_recording(path) == recording


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "cut off or damaged; record it again"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:20] + b"\xff" * 99),
            "cut off or damaged; record it again",
        ),
        (lambda path: path.write_bytes(b"\xff\xfe"), "cut off or damaged; record it again"),
        (lambda path: path.write_text("hello"), "not a recording"),
        (lambda path: path.write_text(""), "not a recording"),
        (lambda path: path.write_text("[" * 100_000), "not a recording"),
        (lambda path: path.unlink(), "cannot read the recording: No such file"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot read the recording: Is a directory"),
        (lambda path: path.write_bytes(gzip.compress(b"[]")), "no schema number"),
        (lambda path: path.write_text('{"schema": "1"}'), "no schema number"),
        (lambda path: path.write_text("{}"), "no schema number"),
        (lambda path: edit(path, lambda whole: whole.update(schema=2)), "schema 2, .* reads 1; update this"),
        (lambda path: edit(path, lambda whole: whole.update(schema=0)), "schema 0, .* reads 1; record it"),
        (lambda path: edit(path, lambda whole: whole.update(scenario="another")), "somebody edited it"),
        (lambda path: edit(path, lambda whole: whole.pop("digest")), "somebody edited it"),
    ],
)
def test_a_file_that_is_no_recording_is_refused(
    path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(path)

    with pytest.raises(RecordingError, match=message) as refused:
        read_recording(path)
    assert str(refused.value).startswith(f"{path}: error: ")


def first_page(whole: Any) -> Any:
    return whole["snapshots"][0]["pages"][0]


def first_slot(whole: Any) -> Any:
    return whole["snapshots"][0]["memslots"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda whole: whole.pop("program"), "recording.program: missing"),
        (lambda whole: whole.pop("snapshots"), "snapshots"),
        (lambda whole: whole.update(program=7), "recording.program: 7 is no str"),
        (lambda whole: whole.update(program=None), "recording.program: None is no str"),
        (lambda whole: whole.update(colour="red"), "recording.colour: no such field"),
        (lambda whole: whole.update(snapshots=7), "not iterable"),
        (lambda whole: whole.update(snapshots={}), "recording.snapshots: {} is no list"),
        (lambda whole: whole.update(results={"0": 1}), "recording.results: {'0': 1} is no list"),
        (lambda whole: whole["results"].__setitem__(1, 7), r"recording.results\[1\]: 7 is no object"),
        (lambda whole: whole["results"][0].update(step="4"), r"results\[0\].step: '4' is no int"),
        (lambda whole: whole["results"][0].update(step=True), r"results\[0\].step: True is no int"),
        (lambda whole: whole["results"][0].update(value=5), r'results\[0\].value: 5 is no "0x..." number'),
        (lambda whole: whole["results"][0].update(value=""), "results.*value: '' is no"),
        (lambda whole: whole["results"][0].update(value="five"), "results.*value: 'five' is no"),
        (lambda whole: whole["results"][0].update(value="-0x1"), "results.*value: '-0x1' does not fit in 64"),
        (lambda whole: whole["results"][0].update(value=hex(1 << 64)), "results.*does not fit in 64 bits"),
        (lambda whole: whole["snapshots"][1].update(mmu="npt"), r"snapshots\[1\].mmu: 'npt' is none of tdp"),
        (lambda whole: whole["snapshots"][0]["vcpus"].append(None), r"vcpus\[1\]: None is no object"),
        (
            lambda whole: first_slot(whole).update(disallow_lpage=[[2, 0]]),
            r"disallow_lpage\[0\]: \[2, 0\] is no",
        ),
        (
            lambda whole: first_slot(whole).update(disallow_lpage=[[2, 0, 1, 1]]),
            "is no list of the right length",
        ),
        (
            lambda whole: first_slot(whole).update(gfn_write_track=[["0x1", "2"]]),
            r"track\[0\]\[1\]: '2' is no int",
        ),
        (lambda whole: first_slot(whole).update(base_gfn=None), r"base_gfn: None is no"),
        (lambda whole: first_page(whole).update(role_word="level=4"), "role_word: 'level=4' is no"),
        (lambda whole: first_page(whole).update(entries=[]), "items"),
        (lambda whole: first_page(whole).update(entries={"nine": "0x1827"}), "nine"),
        (lambda whole: first_page(whole).update(entries={"9": ""}), r"entries.*raw: '' is no"),
        (lambda whole: first_page(whole).update(entries={"9": "0x1827 table = far"}), "'far' is no"),
        (lambda whole: first_page(whole).update(id=1), "snapshot 'first': two pages have the same id"),
        (
            lambda whole: first_page(whole).update(spte_format="npt"),
            "spte_format: 'npt' is none of paging, ept",
        ),
    ],
)
def test_what_is_not_where_it_should_be_is_refused(
    path: Path, change: Callable[[Any], object], message: str
) -> None:
    """Even if somebody gave it the right digest; the message says where it is."""

    def change_and_sign(whole: Any) -> None:
        change(whole)
        sign(whole)

    edit(path, change_and_sign)

    with pytest.raises(RecordingError, match=message) as refused:
        read_recording(path)
    assert str(refused.value).startswith(f"{path}: error: ")


def test_the_largest_words_are_kept(path: Path, recording: Recording) -> None:
    most = (1 << 64) - 1
    huge = replace(recording, results=(StepResult(0, value=Word(most), cr2=Address(0)),))
    far = replace(recording.snapshots[0], pages=(page(3, 1, 1 << 40, (511, most)),))
    write_recording(path, replace(huge, snapshots=(far,)))

    assert read_recording(path).results == huge.results
    assert read_recording(path).snapshots[0].pages[0].entries[0].raw == most
    assert read_recording(path).snapshots[0].pages[0].spt == Pfn(1 << 40)


def test_a_null_is_as_good_as_a_field_left_out(path: Path, recording: Recording) -> None:
    def change(whole: Any) -> None:
        whole["results"][0].update(vector=None, dirty=None)
        first_page(whole).update(ptep=None)
        sign(whole)

    edit(path, change)
    assert read_recording(path) == recording
