"""Characters that show nothing, or change how others show, made visible."""

from __future__ import annotations

import unicodedata

# Control, format (bidirectional controls, zero-width marks), surrogate, line and paragraph separator.
HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
BLANKS = frozenset("\n\t")


def visible(text: str) -> str:
    """`text` with each hidden character as its code point, ``⟨U+202E⟩``; line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(
        f"⟨U+{ord(character):04X}⟩"
        if character not in BLANKS and unicodedata.category(character) in HIDDEN
        else character
        for character in text
    )
