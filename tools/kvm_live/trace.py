"""What KVM's tracepoints (event group kvmmmu) announce, and whether a snapshot agrees.

They are another way to the same state: what they say is printed by KVM as it works, what a snapshot says is
decoded from memory afterwards.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import TypeAlias

from mmu_model.snapshot import Kind, MmuKind, ShadowPage, Snapshot
from mmu_model.snapshot.role import ACC_EXEC, ACC_USER, ACC_WRITE
from mmu_model.snapshot.spte import FRAME

# gen, gfn, level, size of a gpte, quadrant, direct, access
PageKey: TypeAlias = tuple[int, int, int, int, int, bool, int]

PAGE = r"sp gen (\d+) gfn (\w+) l(\d) (\d)-byte q(\d)( direct)? ([-u][-w][-x]|[-w][-u][-x])"
GET_PAGE = re.compile(rf"kvm_mmu_get_page: {PAGE} .* new$")
ZAP_PAGE = re.compile(rf"kvm_mmu_prepare_zap_page: {PAGE} .* root (\d+) ")
SET_SPTE = re.compile(r"kvm_mmu_set_spte: gfn (\w+) spte (\w+) \(\S+\) level \d at (\w+)")
LETTERS = {"x": ACC_EXEC, "w": ACC_WRITE, "u": ACC_USER}
ALL_ENTRIES = 512


class Trace:
    """All that was announced since the VM was made."""

    def __init__(self) -> None:
        self.alive: Counter[PageKey] = Counter()
        self.invalid: Counter[PageKey] = Counter()
        self.frames: dict[int, int] = {}  # physical address of an entry -> frame bits last put into it

    def add(self, line: str) -> None:
        """Takes one line of trace_pipe."""
        if match := GET_PAGE.search(line):
            self.alive[_announced(match)] += 1
        elif match := ZAP_PAGE.search(line):
            self._zap(_announced(match), loaded=match[8] != "0")
        elif match := SET_SPTE.search(line):
            self.frames[int(match[3], 16)] = int(match[2], 16) & FRAME

    def _zap(self, page: PageKey, *, loaded: bool) -> None:
        """A root that is loaded is announced twice: when it becomes invalid, and when it goes."""
        if not loaded and self.invalid[page]:
            self.invalid[page] -= 1
            return
        self.alive[page] -= 1
        self.invalid[page] += loaded

    def disagreements(self, snapshot: Snapshot) -> Iterator[str]:
        """What the snapshot has that was not announced, and the reverse. Zaps of TDP pages are not traced."""
        expected = +self.alive
        found = Counter(_key(page) for page in snapshot.pages if not page.role.invalid)
        missing = expected - found
        if snapshot.mmu is MmuKind.TDP:  # a TDP page that is gone; its key has a direct page's form
            missing = Counter({key: count for key, count in missing.items() if not key[5]})
        for key in found - expected:
            yield f"page {key} was never announced by kvm_mmu_get_page"
        for key in missing:
            yield f"page {key} was announced by kvm_mmu_get_page and is not there"
        for page in snapshot.pages:
            yield from self._leaves(page)

    def _leaves(self, page: ShadowPage) -> Iterator[str]:
        """Each leaf was announced with its frame; but splitting a large page fills a table in silence."""
        leaves = {index: spte for index, spte in page.sptes().items() if spte.kind is Kind.LEAF}
        if len(leaves) == ALL_ENTRIES and page.role.direct:
            return
        for index, spte in leaves.items():
            announced = self.frames.get((page.spt << 12) + 8 * index)
            if announced != spte.raw & FRAME:
                said = "nothing" if announced is None else f"frame {announced >> 12:#x}"
                where = f"gfn {page.gfn:#x} level {page.role.level} spt[{index}]"
                yield f"{where} is {spte}; the trace has {said}"


def _announced(match: re.Match[str]) -> PageKey:
    access = sum(LETTERS[letter] for letter in match[7] if letter != "-")
    gen, gfn, level, size, quadrant = match[1], match[2], match[3], match[4], match[5]
    return int(gen), int(gfn, 16), int(level), int(size), int(quadrant), bool(match[6]), access


def _key(page: ShadowPage) -> PageKey:
    role = page.role
    gen = (
        page.mmu_valid_gen
        if page.mmu_valid_gen is not None
        else int(bool(page.tdp_mmu_scheduled_root_to_zap))
    )
    size = 4 if role.has_4_byte_gpte else 8
    return gen, page.gfn, role.level, size, role.quadrant, bool(role.direct), role.access
