"""A word diff: what stays, what goes, what comes."""

from __future__ import annotations

from difflib import SequenceMatcher

SAME, GONE, NEW = " ", "-", "+"


def word_diff(before: str, after: str) -> tuple[tuple[str, str], ...]:
    """Runs of words in reading order, each with its mark; what goes stands before what comes."""
    old, new = before.split(), after.split()
    runs: list[tuple[str, str]] = []
    for tag, i, j, k, n in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            runs.append((SAME, " ".join(old[i:j])))
            continue
        if i < j:
            runs.append((GONE, " ".join(old[i:j])))
        if k < n:
            runs.append((NEW, " ".join(new[k:n])))
    return tuple(runs)


def marked(runs: tuple[tuple[str, str], ...]) -> str:
    """In one line, as ``git diff --word-diff`` has it: ``[-gone-]{+new+}``."""
    shapes = {SAME: "{}", GONE: "[-{}-]", NEW: "{{+{}+}}"}
    return " ".join(shapes[mark].format(text) for mark, text in runs)
