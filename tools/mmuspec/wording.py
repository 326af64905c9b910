"""In what way the words of a statement changed.

The policy is the table `CLASSES`: the first class one of whose words differs between the two texts counts.
"""

from __future__ import annotations

import re
from collections import Counter

from mmuspec.similarity import tokens

NUMBER_WORDS = frozenset(
    (
        "zero one two three four five six seven eight nine ten eleven twelve sixteen half once twice "
        "first second third fourth fifth both single double many few all none"
    ).split()
)
NEGATIONS = frozenset(
    "not no never nothing none neither nor cannot without t non un isn doesn don can't won".split()
)
MODALS = frozenset(
    "may might can could must shall should will would ought need needs only always usually".split()
)
CONDITIONS = frozenset(
    (
        "if when whenever unless until while only where otherwise else except after before once whether "
        "since because provided either"
    ).split()
)
IDENTIFIER = re.compile(
    r"\w*(?:[._]|->|::|\(\))\w*|\w*[a-z][A-Z]\w*|[A-Z][A-Z0-9]+|\w*\d\w*[a-zA-Z]\w*|\w*[a-zA-Z]\d\w*"
)
WORDS = re.compile(r"[\w.]*\w(?:->\w+)*(?:\(\))?")

CLASSES: tuple[tuple[str, frozenset[str]], ...] = (
    ("negation", NEGATIONS),
    ("modal", MODALS),
    ("condition", CONDITIONS),
)
ORDER = ("number", "negation", "modal", "condition", "identifier", "wording", "markup")
BLOCKING = frozenset(ORDER) - {"markup"}


def change_class(before: str, after: str, *, same_words: bool = False) -> str:
    """The class of a change; `same_words` says that the digests are equal."""
    if same_words:
        return "markup"
    changed = {token.lower() for token in _difference(tokens(before), tokens(after))}
    if any(token.isdigit() for token in changed) or changed & NUMBER_WORDS:
        return "number"
    for name, words in CLASSES:
        if changed & words:
            return name
    names = _difference(WORDS.findall(before), WORDS.findall(after))
    if any(IDENTIFIER.fullmatch(name.rstrip(".")) for name in names):
        return "identifier"
    return "wording"


def _difference(before: list[str], after: list[str]) -> Counter[str]:
    """What stands more often in the one than in the other."""
    one, other = Counter(before), Counter(after)
    return (one - other) + (other - one)
