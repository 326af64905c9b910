"""The walk down the TDP MMU's tables to one frame (tdp_iter.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmu_model.hardware.types import Gfn
from mmu_model.kvm.spte import SPTE_BASE_ADDR_MASK, is_last_spte, is_shadow_present_pte
from mmu_model.kvm.types import (
    PAGE_OFFSET,
    SPTE_ENT_PER_PAGE,
    SPTE_LEVEL_BITS,
    Kva,
    Sptep,
    gfn_round_for_level,
)

if TYPE_CHECKING:
    from mmu_model.kvm.page import KvmMmuPage
    from mmu_model.kvm.vm import Kvm


class TdpIter:
    """A place in the tables below a root.

    Attributes
    ----------
    level, sptep :
        The entry that the walk is at.
    gfn :
        The first frame that the entry spans.
    old_spte :
        What the entry held when it was read.

    """

    __slots__ = ("_goal", "_kvm", "gfn", "level", "old_spte", "sptep")

    def __init__(self, kvm: Kvm, root: KvmMmuPage, goal: Gfn) -> None:
        self._kvm = kvm
        self._goal = goal
        self._enter(root.role.level, root.spt)

    def _enter(self, level: int, table: Kva) -> None:
        index = self._goal >> SPTE_LEVEL_BITS * (level - 1) & SPTE_ENT_PER_PAGE - 1
        self.level = level
        self.sptep = Sptep(Kva(table + index * 8))
        self.gfn = gfn_round_for_level(self._goal, level)
        self.old_spte = self._kvm.host.read(self.sptep)

    def try_step_down(self) -> bool:
        """Go on in the table that the entry, read again, points at; False if there is none."""
        spte = self.old_spte = self._kvm.host.read(self.sptep)
        if not is_shadow_present_pte(spte) or is_last_spte(spte, self.level):
            return False
        self._enter(self.level - 1, Kva(PAGE_OFFSET + (spte & SPTE_BASE_ADDR_MASK)))
        return True
