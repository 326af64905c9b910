"""Diffs applied: how closely they have to fit, what is restored, what is said where they do not fit."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmuspec.review.diffs import FileDiff, Hunk, file_diffs, is_unsafe
from mmuspec.review.message import Line
from mmuspec.review.patching import Patched, apply
from tests.review.scene import PAGE, diff, replaced

GROWN = replaced(
    PAGE,
    ("  spt:\n", "  ptep:\n    Where the page hangs, too.\n  spt:\n"),
    ("  The entries go first.", "  The entries go first, then the page."),
)


def parsed(text: str) -> FileDiff:
    (found,) = file_diffs([Line(number, row) for number, row in enumerate(text.split("\n"), 1)])
    assert not found.broken
    return found


def hunks(before: str, after: str, context: int = 3) -> tuple[Hunk, ...]:
    return parsed(diff(before, after, context=context)).hunks


def applied(text: str, wanted: tuple[Hunk, ...], *, blind: bool = False) -> Patched:
    return apply(text.split("\n"), wanted, blind=blind)


def flattened(text: str) -> tuple[Hunk, ...]:
    """The hunks of a diff whose leading white space a web archive collapsed."""
    rows = []
    for row in text.splitlines():
        row = re.sub(r"[ \t]+", " ", row)
        rows.append(row.lstrip())
    return parsed("\n".join(rows)).hunks


def test_exactly() -> None:
    found = applied(PAGE, hunks(PAGE, GROWN))
    assert "\n".join(found.lines) == GROWN
    assert all(fit.is_exact for fit in found.fits)


def test_lines_know_where_they_come_from() -> None:
    text = diff(PAGE, GROWN)
    found = applied(PAGE, parsed(text).hunks)
    number = GROWN.split("\n").index("  ptep:") + 1
    line = found.added[number]
    assert text.split("\n")[line.at.number - 1] == "+  ptep:"
    gone = PAGE.split("\n").index("  The entries go first.") + 1
    assert found.removed[gone].at.text == "-  The entries go first."


def test_further_down() -> None:
    moved = "Preface.\n\n" * 20 + PAGE
    found = applied(moved, hunks(PAGE, GROWN))
    assert "\n".join(found.lines) == "Preface.\n\n" * 20 + GROWN
    assert [fit.offset for fit in found.fits] == [40, 40]


@pytest.mark.parametrize("fuzz", [1, 2])
def test_with_fuzz(fuzz: int) -> None:
    """As many lines of context as patch may leave out are others in the page."""
    rows = PAGE.split("\n")
    at = rows.index("  spt:")
    for place in range(at - 3, at - 3 + fuzz):
        rows[place] = f"    Other words {place}."
    found = applied("\n".join(rows), hunks(PAGE, GROWN))
    assert [fit.fuzz for fit in found.fits] == [fuzz, 0]
    assert "  ptep:" in found.lines and "    Other words" in "\n".join(found.lines)


def test_more_context_is_wrong_than_fuzz_allows() -> None:
    rows = PAGE.split("\n")
    at = rows.index("  spt:")
    rows[at - 3 : at] = ["    Other words.", "    And more.", "    And more still."]
    text = "\n".join(rows)
    found = applied(text, hunks(PAGE, GROWN))
    assert [misfit.hunk for misfit in found.misfits] == [1]
    assert "  ptep:" not in found.lines
    assert "  The entries go first, then the page." in found.lines
    assert found.misfits[0].found == "Other words." and found.misfits[0].wanted == "page stays."
    assert rows[found.misfits[0].found_line - 1] == "    Other words."
    after_a_missing_patch = applied(text, hunks(PAGE, GROWN), blind=True)
    assert "  ptep:" in after_a_missing_patch.lines


def test_what_is_removed_has_to_stand_there() -> None:
    found = applied(PAGE.replace("The entries go", "The entries went"), hunks(PAGE, GROWN), blind=True)
    assert [misfit.hunk for misfit in found.misfits] == [2]
    assert found.misfits[0].found.startswith("The entries went")


def test_indentation_that_was_lost_is_restored() -> None:
    found = applied(PAGE, flattened(diff(PAGE, GROWN)))
    assert "\n".join(found.lines) == GROWN
    assert found.fits[0].folded


def test_a_term_renamed_and_text_rewritten_without_indentation() -> None:
    after = replaced(
        PAGE,
        ("  root_count:\n", "  root_count / tdp_mmu_root_count:\n"),
        ("    Counts who uses the page as a root.", "    Counts the users of the page.\n    They hold it."),
    )
    found = "\n".join(applied(PAGE, flattened(diff(PAGE, after))).lines)
    gaps = re.compile(r"(?<=\S)  +")  # inside a line they are gone for good
    assert gaps.sub(" ", found) == gaps.sub(" ", after)


def test_bullets_and_their_text_without_indentation() -> None:
    before = "A\n=\n\nSome:\n\n  - one thing\n    that goes on\n\n  - another\n\nEnd.\n"
    after = replaced(before, ("  - another\n", "  - a new one\n    that goes on too\n\n  - another\n"))
    assert "\n".join(applied(before, flattened(diff(before, after))).lines) == after


def test_a_hunk_that_is_cut_is_no_diff() -> None:
    text = diff(PAGE, GROWN)
    cut = text[: text.index("+  ptep:")]
    (found,) = file_diffs([Line(n, row) for n, row in enumerate(cut.splitlines(), 1)])
    assert "ends early" in found.broken


def test_two_diffs_in_one_mail_and_a_signature_behind() -> None:
    other = diff("a\n", "b\n", "Makefile")
    text = f"Words.\n\n{diff(PAGE, GROWN)}{other}-- \n2.41.0\n"
    found = list(file_diffs([Line(n, row) for n, row in enumerate(text.splitlines(), 1)]))
    assert [each.path.rpartition("/")[2] for each in found] == ["mmu.rst", "Makefile"]
    assert [len(each.hunks) for each in found] == [2, 1]


def test_a_binary_diff_is_said_to_be_one() -> None:
    text = "diff --git a/x.png b/x.png\nindex 1..2 100644\nBinary files a/x.png and b/x.png differ\n"
    (found,) = file_diffs([Line(n, row) for n, row in enumerate(text.splitlines(), 1)])
    assert "binary" in found.broken


def test_a_quoted_diff_is_none() -> None:
    rows = [f"> {row}" for row in diff(PAGE, GROWN).splitlines()]
    assert not list(file_diffs([Line(n, row) for n, row in enumerate(rows, 1)]))


@pytest.mark.parametrize(
    ("path", "unsafe"),
    [("../x", True), ("/etc/passwd", True), ("a/../../x", True), ("a/b.rst", False), ("/dev/null", False)],
)
def test_paths_that_lead_out_of_the_tree(path: str, unsafe: bool) -> None:
    assert is_unsafe(path) is unsafe


LINES = st.lists(st.text(string.ascii_lowercase + "  ", max_size=8), max_size=25)


@given(LINES, LINES)
def test_a_diff_applied_to_the_old_is_the_new(old: list[str], new: list[str]) -> None:
    before, after = "\n".join([*old, "end", ""]), "\n".join([*new, "end", ""])
    if before != after:
        found = applied(before, hunks(before, after))
        assert "\n".join(found.lines) == after
        assert not found.misfits


@given(LINES, LINES, st.integers(0, 20), st.integers(0, 20))
def test_any_hunk_on_any_text_leaves_what_it_does_not_name(
    old: list[str], new: list[str], drop: int, extra: int
) -> None:
    """Whatever fits or not: the other lines of the text stay, and nothing raises."""
    before, after = "\n".join([*old, "end", ""]), "\n".join([*new, "end", ""])
    if before == after:
        return
    wanted = hunks(before, after)
    text = ["first", *before.split("\n")[drop:], *["tail"] * extra]
    found = apply(text, wanted, blind=True)
    assert len(found.fits) + len(found.misfits) == len(wanted)
    assert found.lines[0] == "first"
    assert list(found.lines).count("tail") == extra
