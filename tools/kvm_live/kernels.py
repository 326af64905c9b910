"""Why the same scenario leaves another state on 6.1 than on 6.12; docs/kernels-6.1-6.12.md tells more."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Explanation:
    """The differences (lines of ``compare``, 6.1 first) that one change of the kernel accounts for."""

    key: str
    pattern: re.Pattern[str]
    why: str


LEAF = r"spt\[\d+\]: 0x\w+ leaf pfn 0x\w+"

# The first whose pattern is found in a line explains it.
EXPLANATIONS = tuple(
    Explanation(key, re.compile(pattern), why)
    for key, pattern, why in (
        (
            "empty-value",
            r"empty_spte: 0 / 0x8000000000000000$",
            "an unused entry is SHADOW_NONPRESENT_VALUE, bit 63 alone, since 6.10",
        ),
        (
            "roles-invalid-at-first",
            r"guest_mmu\.root_role: 0 / 0x800$",
            "kvm_mmu_after_set_cpuid sets root_role.invalid, where 6.1 clears the whole word",
        ),
        (
            "no-array-above-level-3",
            r"has_shadowed_translation: True / False$|\btable pfn .* = 0x0 / 0x\w+ table pfn [^=]*$",
            "shadowed_translation is not allocated above KVM_MAX_HUGEPAGE_LEVEL",
        ),
        (
            "nx-split-fills-the-table",
            r"^nx-huge-pages (fetched|both-split): ",
            "the TDP MMU splits a large page where 6.1 links an empty table",
        ),
        (
            "invlpg-syncs",
            r"^invlpg after: ",
            "INVLPG synchronizes the entry, where 6.1 zaps it and prefetches the new one",
        ),
        (
            "sync-leaves-equal-entries",
            rf"{LEAF} \S+ -[-D] .* / 0x\w+ leaf pfn 0x\w+ \S+ A[-D] ",
            "a synchronized entry of unchanged access is left alone, where 6.1 writes it anew, not accessed",
        ),
    )
)


def explain(lines: Iterable[str]) -> tuple[Counter[str], list[str]]:
    """How many lines each explanation accounts for, by key, and the lines that none does."""
    counts: Counter[str] = Counter()
    unexplained = []
    for line in lines:
        found = next((e.key for e in EXPLANATIONS if e.pattern.search(line)), None)
        if found is None:
            unexplained.append(line)
        else:
            counts[found] += 1
    return counts, unexplained
