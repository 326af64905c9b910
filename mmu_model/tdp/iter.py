"""Walks over the TDP MMU's tables, in the order of the addresses, a table before what is below it (tdp_iter.c)."""

from typing import Final

from mmu_model.hardware.types import Gfn
from mmu_model.kvm.page import KvmMmuPage
from mmu_model.kvm.requests import flush_remote_tlbs
from mmu_model.kvm.spte import SPTE_BASE_ADDR_MASK, is_nonleaf_spte
from mmu_model.kvm.task import Steps
from mmu_model.kvm.types import (
    PAGE_OFFSET,
    PG_LEVEL_4K,
    PT64_ROOT_5LEVEL,
    SPTE_ENT_PER_PAGE,
    SPTE_LEVEL_BITS,
    Sptep,
    gfn_round_for_level,
    pages_per_hpage,
)
from mmu_model.kvm.vm import Kvm

_LAST_INDEX: Final = SPTE_ENT_PER_PAGE - 1
_INDEX_SHIFT: Final = tuple(SPTE_LEVEL_BITS * (level - 1) for level in range(PT64_ROOT_5LEVEL + 1))


class TdpIter:
    """A place in the tables below a root. Whoever has one is in an RCU read-side section.

    Parameters
    ----------
    kvm, root :
        Whose tables.
    start :
        The frame that the walk goes down to first.
    min_level :
        The lowest level that it goes down to.

    Attributes
    ----------
    level, sptep :
        The entry that the walk is at.
    gfn :
        The first frame that the entry spans.
    old_spte :
        What the entry held when it was read.
    valid :
        False behind the last entry.
    next_last_level_gfn :
        The frame that the walk is on its way to.
    yielded :
        Others had the lock since the entry was read: the walk has to start again from the root.

    """

    __slots__ = (
        "_assert_rcu_held",
        "_min_level",
        "_read",
        "_root_level",
        "_tables",
        "_yielded_gfn",
        "gfn",
        "level",
        "next_last_level_gfn",
        "old_spte",
        "sptep",
        "valid",
        "yielded",
    )

    def __init__(self, kvm: Kvm, root: KvmMmuPage, start: Gfn, min_level: int = PG_LEVEL_4K) -> None:
        self._assert_rcu_held = kvm.rcu.assert_held
        self._read = kvm.host.memory.read
        self._min_level = min_level
        self._root_level = root.role.level
        self._tables = [0] * (self._root_level + 1)
        self._tables[self._root_level] = root.hpa
        self.next_last_level_gfn = start
        self._restart()

    def _restart(self) -> None:
        """From the root again, to where the walk was on its way to."""
        self.yielded = False
        self._yielded_gfn = self.next_last_level_gfn
        self._go_to(self._root_level, self.next_last_level_gfn)
        self.valid = True

    def _go_to(self, level: int, gfn: Gfn) -> None:
        """Read the entry of a level for a frame."""
        self._assert_rcu_held()
        hpa = self._tables[level] + (gfn >> _INDEX_SHIFT[level] & _LAST_INDEX) * 8
        self.level = level
        self.gfn = gfn_round_for_level(gfn, level)
        self.sptep = Sptep(PAGE_OFFSET + hpa)
        self.old_spte = self._read(hpa)

    def refresh(self) -> None:
        """Read the entry again."""
        self.old_spte = self._read(self.sptep - PAGE_OFFSET)

    def next(self) -> None:
        """Go on: down if there is a table, else to the next entry, else up and to the next entry there."""
        if self.yielded:
            self._restart()
            return
        if self.try_step_down():
            return
        while not self._try_step_side():
            if self.level == self._root_level:
                self.valid = False
                return
            self._go_to(self.level + 1, self.gfn)

    def try_step_down(self) -> bool:
        """Go on in the table that the entry, read again, points at; False if there is none."""
        level = self.level
        if level == self._min_level:
            return False
        spte = self.old_spte = self._read(self.sptep - PAGE_OFFSET)
        if not is_nonleaf_spte(spte):
            return False
        self._tables[level - 1] = spte & SPTE_BASE_ADDR_MASK
        self._go_to(level - 1, self.next_last_level_gfn)
        return True

    def _try_step_side(self) -> bool:
        if self.gfn >> _INDEX_SHIFT[self.level] & _LAST_INDEX == _LAST_INDEX:
            return False
        self.next_last_level_gfn = Gfn(self.gfn + pages_per_hpage(self.level))
        self._go_to(self.level, self.next_last_level_gfn)
        return True

    def has_made_progress(self) -> bool:
        """Whether the walk moved on since it last started from the root."""
        return self.next_last_level_gfn != self._yielded_gfn


def tdp_mmu_iter_cond_resched(kvm: Kvm, place: TdpIter, *, flush: bool = False) -> Steps[bool]:
    """Let those have mmu_lock who wait for it, once the walk has made progress; whether that was so.

    Then the entry may be anything by now: the caller goes on with :meth:`TdpIter.next`. With `flush` the TLBs
    are flushed first. The kernel gives the lock away for other reasons too; then nobody who wants it runs.
    """
    if not kvm.mmu_lock.is_contended() or not place.has_made_progress():
        return False
    if flush:
        yield from flush_remote_tlbs(kvm)
    kvm.rcu.unlock()
    yield from kvm.mmu_lock.cond_resched()
    kvm.rcu.lock()
    place.yielded = True
    return True
