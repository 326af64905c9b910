"""What tracepoints announce is held against snapshots."""

from dataclasses import replace

from conformance.snapshot.handmade import LEAF, TABLE, page, snapshot
from kvm_live.trace import Trace
from mmu_model.snapshot import Gfn, MmuKind, Role, Snapshot

NEW = "vmm-7 [000] ..... 5.1: kvm_mmu_get_page: sp gen 0 gfn 40 l2 8-byte q0 wux nxe ad root 0 sync new"
LEAF_NEW = NEW.replace("gfn 40 l2", "gfn 41 l1")
SET = "vmm-7 [000] ..... 5.2: kvm_mmu_set_spte: gfn 200 spte 555e67 (rwxu) level 1 at 11018"
ZAP = "vmm-7 [000] ..... 5.3: kvm_mmu_prepare_zap_page: sp gen 0 gfn 41 l1 8-byte q0 wux nxe ad root 0 sync"


def built() -> Snapshot:
    root = page(1, 2, 0x10, (9, 0x11 << 12 | TABLE), gfn=Gfn(0x40))
    leaf = page(2, 1, 0x11, (3, 0x555 << 12 | LEAF), gfn=Gfn(0x41))
    return snapshot(1, root, leaf)


def traced(*lines: str) -> Trace:
    trace = Trace()
    for line in lines:
        trace.add(line)
    return trace


def test_what_was_announced_and_is_there_agrees() -> None:
    assert list(traced(NEW, LEAF_NEW, SET).disagreements(built())) == []


def test_a_page_that_was_not_announced_is_told() -> None:
    (line,) = traced(NEW, SET).disagreements(built())

    assert "was never announced" in line
    assert "65, 1" in line


def test_a_page_that_was_zapped_must_be_gone() -> None:
    (line,) = traced(NEW, LEAF_NEW, SET, ZAP).disagreements(built())
    assert "was never announced" in line

    root_only = replace(built(), pages=built().pages[:1])
    assert list(traced(NEW, LEAF_NEW, SET, ZAP).disagreements(root_only)) == []


def test_a_page_that_is_missing_is_told_except_of_the_tdp_mmus() -> None:
    root_only = replace(built(), pages=built().pages[:1])
    (line,) = traced(NEW, LEAF_NEW, SET).disagreements(root_only)
    assert "is not there" in line

    direct = LEAF_NEW.replace("q0 wux", "q0 direct wux")
    tdp = replace(root_only, mmu=MmuKind.TDP)
    assert list(traced(NEW, direct, SET).disagreements(tdp)) == []


def test_a_loaded_root_is_zapped_in_two_steps() -> None:
    invalid = ZAP.replace("root 0", "root 1")
    root = page(1, 1, 0x11, gfn=Gfn(0x41), role_word=Role(level=1, access=7, invalid=1).word)
    held = snapshot(1, root)

    assert list(traced(LEAF_NEW, invalid).disagreements(held)) == []
    again = traced(LEAF_NEW, invalid, LEAF_NEW, ZAP)
    assert list(again.disagreements(snapshot(1, page(1, 1, 0x11, gfn=Gfn(0x41))))) == []


def test_a_leaf_with_another_frame_is_told() -> None:
    (line,) = traced(NEW, LEAF_NEW, SET.replace("555e67", "556e67")).disagreements(built())
    assert "the trace has frame 0x556" in line

    (line,) = traced(NEW, LEAF_NEW).disagreements(built())
    assert "the trace has nothing" in line


def test_a_table_that_a_split_filled_needs_no_announcement() -> None:
    entries = tuple((i, (0x600 + i) << 12 | LEAF) for i in range(512))
    filled = page(2, 1, 0x11, *entries, gfn=Gfn(0x41), role_word=Role(level=1, access=7, direct=1).word)

    trace = traced(LEAF_NEW.replace("q0 wux", "q0 direct wux"))
    assert list(trace.disagreements(snapshot(2, filled))) == []
