"""The model does what real kernels did: every recording, step by step and snapshot by snapshot."""

import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from conformance.excuses import EXCUSES, Excuse
from conformance.live.predicate import with_entry
from conformance.recorded import Case, Outcome, cases, compare, judge
from mmu_model.snapshot import (
    Gfn,
    Kind,
    MmuKind,
    Recording,
    RecordingError,
    Snapshot,
    Spte,
    differences,
    read_recording,
    write_recording,
)
from mmu_model.snapshot.spte import ACCESSED

WRITTEN = ("host-drop", "mmio", "efer-nx-off", "dirty-log")
"""Scenarios whose recordings have sptes of every kind."""
SAMPLES = [Case("host-drop", kernel, mmu.value) for kernel in ("6.1", "6.12") for mmu in MmuKind]


@pytest.mark.parametrize("case", cases(), ids=str)
def test_the_model_equals_the_recording(case: Case) -> None:
    """Pages, roles, sptes, parents, unsync state, counts, generations, roots, and what the guest saw."""
    assert judge(case).lines == ()


@pytest.mark.parametrize("excuse", EXCUSES, ids=lambda excuse: excuse.rule)
def test_an_excuse_is_needed(excuse: Excuse) -> None:
    """Or it is to go."""
    excused = [case for case in cases(("efer-nx-off",)) if judge(case).outcome is Outcome.EXCUSED]

    assert {MmuKind(case.mmu) for case in excused} == set(excuse.mmus)


def with_last_snapshot(recording: Recording, snapshot: Snapshot) -> Recording:
    return replace(recording, snapshots=(*recording.snapshots[:-1], snapshot))


def one_leaf_less_accessed(recording: Recording) -> Recording:
    last = recording.snapshots[-1]
    page, index, spte = next(
        (page, index, spte)
        for page in last.pages
        for index, spte in page.sptes().items()
        if spte.kind is Kind.LEAF and spte.accessed
    )
    changed = with_entry(page, index, Spte(spte.raw & ~ACCESSED, spte.level))
    pages = tuple(changed if other is page else other for other in last.pages)
    return with_last_snapshot(recording, replace(last, pages=pages))


def one_page_elsewhere(recording: Recording) -> Recording:
    last = recording.snapshots[-1]
    first, *others = last.pages
    moved = replace(first, gfn=Gfn(first.gfn + 1))
    return with_last_snapshot(recording, replace(last, pages=(moved, *others)))


def one_generation_later(recording: Recording) -> Recording:
    last = recording.snapshots[-1]
    return with_last_snapshot(recording, replace(last, mmu_valid_gen=last.mmu_valid_gen ^ 1))


def one_snapshot_less(recording: Recording) -> Recording:
    return replace(recording, snapshots=recording.snapshots[:-1])


def one_result_less(recording: Recording) -> Recording:
    return replace(recording, results=recording.results[:-1])


def another_scenario(recording: Recording) -> Recording:
    return replace(recording, program="0" * 64)


@pytest.mark.parametrize(
    "change",
    [
        one_leaf_less_accessed,
        one_page_elsewhere,
        one_generation_later,
        one_snapshot_less,
        one_result_less,
        another_scenario,
    ],
)
@pytest.mark.parametrize("case", SAMPLES, ids=str)
def test_the_comparison_sees_what_differs(case: Case, change: object) -> None:
    assert callable(change)
    recorded = read_recording(case.path)

    assert list(compare(recorded, recorded)) == []
    assert len(list(compare(recorded, change(recorded)))) == 1


@pytest.mark.parametrize("case", [case for case in cases() if case.scenario in WRITTEN], ids=str)
def test_a_recording_is_written_as_it_was_read(case: Case, tmp_path: Path) -> None:
    """Every word and its reading in words, in the same place; a change of the words alone is noticed."""
    there = tmp_path / "deep" / "again.json"
    write_recording(there, read_recording(case.path), compress=False)

    text = gzip.decompress(case.path.read_bytes()).decode()
    assert there.read_text() == text
    assert list(there.parent.iterdir()) == [there]
    there.write_text(text.replace('"mmu_valid_gen": ', '"mmu_valid_gen": 1'))
    with pytest.raises(RecordingError, match="digest"):
        read_recording(there)


def test_the_comparison_says_what_differs() -> None:
    """Page, index and both entries, in words."""
    recorded = read_recording(Case("host-drop", "6.12", "shadow").path)
    last = recorded.snapshots[-1]
    page = last.pages[-1]
    title = f"page {page.id} (gfn {page.gfn:#x}, {page.role})"
    one_less = replace(last, pages=last.pages[:-1])
    another = replace(last, pages=(*last.pages[:-1], replace(page, root_count=10)))
    emptier = replace(last, pages=(*last.pages[:-1], replace(page, entries=page.entries[1:])))

    assert differences(last, last) == []
    assert differences(last, one_less) == [f"{title}: only in the first"]
    assert differences(one_less, last) == [f"{title}: only in the second"]
    assert differences(last, another) == [f"{title} root_count: {page.root_count} / 0xa"]
    (line,) = differences(last, emptier)
    assert line.startswith(f"{title} spt[{page.entries[0].index}]: 0x")
    assert line.endswith(" / empty")
    later = replace(last, mmu_valid_gen=(last.mmu_valid_gen or 0) + 1)
    (line,) = differences(last, later)
    assert line == f"mmu_valid_gen: {last.mmu_valid_gen} / {later.mmu_valid_gen}"
