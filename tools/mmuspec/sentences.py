"""Where a sentence of kernel documentation ends.

Kernel prose begins sentences in lower case (``spte points ...``), names files and fields with full stops in
them, and breaks lines anywhere. So a sentence ends at a full stop, question or exclamation mark that is
followed by white space, unless one of the exceptions below says otherwise. A full stop may be forgotten
behind a closing parenthesis: there a line that begins with an opening word begins a sentence.
"""

from __future__ import annotations

import re

END = re.compile(
    r"""(?<=\S)[.?!]+["'’”)\]]*(?=\s)"""
    r"""|\)(?=[ \t]*\n\s*(?:If|The|This|These|When|Otherwise|However|Note|In|It|For|A|An)\s)"""
)
# Never the end of a sentence, whatever follows.
ABBREVIATIONS = frozenset(
    "i.e. e.g. vs. cf. viz. resp. approx. incl. esp. fig. sec. no. ver. dr. mr. st.".split()
)
# The end of one only if the next word does not begin in lower case.
OPEN_ABBREVIATIONS = frozenset({"etc.", "al.", "..."})
WORD_BEFORE = re.compile(r"""[("'\[“‘*`_]*(\S+)$""")
ENUMERATOR = re.compile(r"\(?(\d+|[A-Za-z]|[ivx]+)[.)]$")
CLOSERS = "\"'’”)]"


def sentences(text: str) -> list[tuple[int, int]]:
    """(start, end) of each sentence in `text`, white space around it left out; none for blank text."""
    found: list[tuple[int, int]] = []
    start = _next_word(text, 0)
    for mark in END.finditer(text):
        end = mark.end()
        if end > start and not _goes_on(text, start, end):
            found.append((start, end))
            start = _next_word(text, end)
    end = len(text.rstrip())
    if end > start:
        found.append((start, end))
    return found


def _goes_on(text: str, start: int, end: int) -> bool:
    """Whether the sentence that began at `start` goes on behind the mark that ends at `end`."""
    sentence = text[start:end]
    word = WORD_BEFORE.search(sentence)
    last = (word[1] if word else sentence).rstrip(CLOSERS).lower()
    following = text[_next_word(text, end) :]
    if last in ABBREVIATIONS or ENUMERATOR.fullmatch(sentence.strip()):
        return True
    if last in OPEN_ABBREVIATIONS or last.endswith("..."):
        return following[:1].islower()
    return _opens_more_than_it_closes(sentence) and ")" in following


def _opens_more_than_it_closes(sentence: str) -> bool:
    return sentence.count("(") > sentence.count(")")


def _next_word(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position
