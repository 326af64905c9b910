"""Folding and digests: when two texts count as the same words."""

from __future__ import annotations

import hashlib

DIGEST_DIGITS = 16


def fold(text: str) -> str:
    """Every run of white space, line breaks included, becomes one space; none at the ends."""
    return " ".join(text.split())


def digest(plain: str) -> str:
    """The first 16 hex digits of sha256 over the folded text.

    `plain` is text from which inline markup has been removed already.
    """
    return hashlib.sha256(fold(plain).encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST_DIGITS]
