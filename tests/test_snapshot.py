"""Snapshots: words, canonical form, differences, files."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmu_model.snapshot import (
    Entry,
    Gfn,
    Kind,
    LoadedRoot,
    Mmio,
    MmuContext,
    MmuKind,
    PageId,
    Pfn,
    Recording,
    RecordingError,
    Role,
    ShadowPage,
    Snapshot,
    Spte,
    SpteAt,
    StepResult,
    Vcpu,
    Word,
    canonical,
    differences,
    read_recording,
    write_recording,
)
from mmu_model.snapshot.state import Address

TABLE, LEAF, LARGE_LEAF = 0x827, 0xE67, 0xEE7
HERE = Address(0)


def page(number: int, level: int, spt: int, *entries: tuple[int, int], **other: Any) -> ShadowPage:
    """A shadow page with the given (index, word) entries."""
    made = ShadowPage(
        id=PageId(number),
        listed="active",
        role_word=Role(level=level, access=7).word,
        gfn=Gfn(spt & 0xFF),
        tdp_mmu_page=False,
        unsync=False,
        mmu_valid_gen=0,
        tdp_mmu_scheduled_root_to_zap=None,
        nx_huge_page_disallowed=False,
        possible_nx_huge_page=False,
        spt=Pfn(spt),
        has_shadowed_translation=False,
        root_count=0,
        tdp_mmu_root_count=None,
        unsync_children=0,
        unsync_child_bitmap=(),
        parent_ptes=(),
        ptep=None,
        write_flooding_count=0,
        entries=tuple(Entry(index, Word(word)) for index, word in entries),
    )
    return replace(made, **other)


def snapshot(root: int, *pages: ShadowPage) -> Snapshot:
    """A VM whose only vCPU has ``root`` loaded."""
    empty = MmuContext(LoadedRoot("none", None, None), Role(0).word, Word(0), (), ())
    loaded = replace(empty, root=LoadedRoot("page", PageId(root), Address(0x1000)))
    mmio = Mmio(HERE, 0, Gfn(0), Word(0))
    vcpu = Vcpu(Word(1), Word(2), Word(3), Word(4), False, False, "root_mmu", loaded, empty, mmio)
    ids = tuple(p.id for p in pages)
    return Snapshot(
        "first",
        "6.12",
        MmuKind.SHADOW,
        0,
        (Word(2),),
        2,
        64,
        2,
        0,
        True,
        Word(0),
        (),
        (vcpu,),
        ids,
        (),
        pages,
    )


def two_levels(root: int, child: int, base: int, leaf: int) -> Snapshot:
    """A root with one child with one leaf entry, somewhere in host memory."""
    return snapshot(
        root,
        page(child, 1, base + 1, (3, leaf << 12 | LEAF), gfn=Gfn(7), parent_ptes=(SpteAt(PageId(root), 9),)),
        page(root, 2, base, (9, base + 1 << 12 | TABLE), gfn=Gfn(8)),
    )


def test_a_role_word_and_its_fields_are_the_same_thing() -> None:
    role = Role(level=2, has_4_byte_gpte=1, quadrant=3, access=5, efer_nx=1, cr0_wp=1, smm=1)

    assert role.word == 0x01003572
    assert Role.from_word(role.word) == role
    assert str(role) == "level=2 has_4_byte_gpte=1 quadrant=3 access=5 efer_nx=1 cr0_wp=1 smm=1"


def test_a_role_field_that_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match=r"role\.quadrant is 4, more than 2 bits hold"):
        assert Role(level=1, quadrant=4).word


@pytest.mark.parametrize(
    ("word", "level", "kind"),
    [
        (0, 1, Kind.EMPTY),
        (1 << 63, 4, Kind.EMPTY),
        (0x1000_0E67, 1, Kind.LEAF),
        (0x1000_0EE7, 2, Kind.LEAF),
        (0x1000_0827, 2, Kind.TABLE),
        (1 << 51 | 0xD0000007 | 5 << 3, 1, Kind.MMIO),
        (0x5A0, 3, Kind.FROZEN),
        (1 << 63 | 0x5A0, 3, Kind.FROZEN),
        (0x40, 1, Kind.OTHER),
    ],
)
def test_the_kind_of_an_entry(word: int, level: int, kind: Kind) -> None:
    assert Spte(word, level).kind is kind


def test_an_mmio_entry_carries_frame_and_generation() -> None:
    spte = Spte(1 << 51 | 0xD0001 << 12 | (0x345 >> 8) << 52 | 0x45 << 3 | 7, 1)

    assert spte.mmio_gfn == 0xD0001
    assert spte.mmio_generation == 0x345


def test_states_that_differ_in_addresses_only_have_one_canonical_form() -> None:
    one = two_levels(0xFFFF1000, 0xFFFF2000, 0x100, 0x555)
    two = two_levels(0xFFFF9000, 0xFFFF3000, 0x777, 0x111)

    assert canonical(one) == canonical(two)
    assert differences(canonical(one), canonical(two)) == []


def test_canonical_ids_and_frames_follow_the_tables() -> None:
    result = canonical(two_levels(0xFFFF1000, 0xFFFF2000, 0x100, 0x555))

    assert [(p.id, p.spt, p.role.level) for p in result.pages] == [(0, 0, 2), (1, 1, 1)]
    assert result.pages[0].sptes()[9].pfn == 1
    assert result.pages[1].sptes()[3].pfn == 2
    assert result.pages[1].parent_ptes == (SpteAt(PageId(0), 9),)
    assert result.active_mmu_pages == (1, 0)
    assert result.vcpus[0].root_mmu.root.page == 0


def test_canonical_of_canonical_changes_nothing() -> None:
    once = canonical(two_levels(0xFFFF1000, 0xFFFF2000, 0x100, 0x555))

    assert canonical(once) == once


def test_a_small_entry_into_a_large_page_keeps_its_offset() -> None:
    def mapped(offset: int) -> Snapshot:
        root = page(1, 3, 0x10, (0, 0x11 << 12 | TABLE))
        large = page(2, 2, 0x11, (0, 0x12 << 12 | TABLE), (1, 0x40000 << 12 | LARGE_LEAF))
        small = page(3, 1, 0x12, (5, 0x40000 + offset << 12 | LEAF))
        return canonical(snapshot(1, root, large, small))

    assert mapped(5) != mapped(6)
    assert canonical(mapped(5)) == mapped(5)
    small, large = mapped(5).pages[2].sptes()[5], mapped(5).pages[1].sptes()[1]
    assert small.pfn - large.pfn == 5
    assert large.pfn % 512 == 0


def test_pages_no_root_reaches_are_kept() -> None:
    lost = page(5, 1, 0x20, (0, 0x30 << 12 | LEAF))

    result = canonical(snapshot(1, page(1, 2, 0x10), lost))

    assert [p.role.level for p in result.pages] == [2, 1]


def change_entry(state: Snapshot) -> Snapshot:
    last = state.pages[-1]
    entry = replace(last.entries[0], raw=Word(last.entries[0].raw ^ 2))
    return replace(state, pages=(*state.pages[:-1], replace(last, entries=(entry,))))


def drop_page(state: Snapshot) -> Snapshot:
    return replace(state, pages=state.pages[:-1])


def change_register(state: Snapshot) -> Snapshot:
    return replace(state, vcpus=(replace(state.vcpus[0], cr4=Word(0x20)),))


def change_role(state: Snapshot) -> Snapshot:
    last = replace(state.pages[-1], role_word=Role(level=1, access=5).word)
    return replace(state, pages=(*state.pages[:-1], last))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            change_entry,
            "page 1 (gfn 0x7, level=1 access=7) spt[3]: "
            "0x0000000000002e67 leaf pfn 0x2 rwxu AD host mmu / "
            "0x0000000000002e65 leaf pfn 0x2 r-xu AD host mmu",
        ),
        (drop_page, "page 1 (gfn 0x7, level=1 access=7): only in the first"),
        (change_register, "vcpus[0].cr4: 3 / 0x20"),
        (change_role, "page 1 (gfn 0x7, level=1 access=7) role: level=1 access=7 / level=1 access=5"),
    ],
)
def test_a_difference_says_where_and_what(change: Callable[[Snapshot], Snapshot], line: str) -> None:
    state = canonical(two_levels(1, 2, 0x100, 0x555))

    assert differences(state, change(state)) == [line]


@pytest.fixture
def recording() -> Recording:
    """One with each kind of content."""
    results = (
        StepResult(4, value=Word(5)),
        StepResult(6, vector=14, error_code=Word(2), cr2=Address(0x1000)),
    )
    state = canonical(two_levels(1, 2, 0x100, 0x555))
    with_translation = replace(state.pages[1].entries[0], shadowed_translation=Word(0x7007))
    last = replace(state.pages[1], entries=(with_translation,), has_shadowed_translation=True)
    state = replace(state, pages=(state.pages[0], last))
    return Recording("some", "ab" * 32, results, (state,))


def test_a_recording_reads_as_it_was_written(recording: Recording, tmp_path: Path) -> None:
    path = tmp_path / "6.12" / "some.json.gz"
    write_recording(path, recording)
    once = path.read_bytes()
    write_recording(path, recording)

    assert read_recording(path) == recording
    assert path.read_bytes() == once
    assert list(path.parent.iterdir()) == [path]


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    body = json.loads(gzip.decompress(path.read_bytes()))
    change(body)
    path.write_bytes(gzip.compress(json.dumps(body).encode()))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "cut off or damaged; record it again"),
        (lambda path: path.write_text("hello"), "not a recording"),
        (lambda path: path.unlink(), "cannot read the recording: No such file"),
        (lambda path: path.write_bytes(gzip.compress(b"[]")), r"no schema number"),
        (
            lambda path: edit(path, lambda body: body.update(schema=2)),
            "schema 2, .* reads 1; update this project",
        ),
        (lambda path: edit(path, lambda body: body.update(scenario="another")), "somebody edited it"),
    ],
)
def test_a_file_that_is_no_recording_is_refused(
    recording: Recording, tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "some.json.gz"
    write_recording(path, recording)
    spoil(path)

    with pytest.raises(RecordingError, match=message) as refused:
        read_recording(path)
    assert str(refused.value).startswith(f"{path}: error: ")
