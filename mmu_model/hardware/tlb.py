"""What the processor remembers of walks: the TLB and the paging-structure caches (SDM vol. 3, 4.10 and 29.4).

Real caches are small and forget at any time. These are the worst case for software: nothing is forgotten but
by an invalidation, so that a flush that software owes is missed every time and not now and then.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from mmu_model.hardware.paging import Cause, Paging, Step, Translation
from mmu_model.hardware.walk import AccessToMemory, Start

A = TypeVar("A", bound=AccessToMemory)

TABLE_SHIFTS = (21, 22, 30, 39, 48)
"""Address bits below an entry that references a table, of any level of any mode (SDM vol. 3, tables 4-1, 4-2)."""

ANY_PCID = -1
"""The PCID of global translations: they are used whatever the current one is."""


class Tag(NamedTuple):
    """Whose translations these are.

    Attributes
    ----------
    vpid :
        The VPID or ASID; 0 is the host's, and every guest's while VPIDs are not in use.
    pcid :
        The process-context identifier, or ANY_PCID.
    root :
        With EPT: the address of its root (bits 51:12 of the EPTP, which the SDM calls EP4TA), else NO_EP4TA.

    """

    vpid: int
    pcid: int
    root: int


class Cached(NamedTuple):
    """A TLB entry: both halves of a translation, `host` only for a guest's.

    It covers 2**shift bytes, the smaller one of the two pages.
    """

    guest: Translation
    host: Translation | None

    @property
    def shift(self) -> int:
        """The size of what it covers."""
        return min(self.guest.shift, self.host.shift) if self.host else self.guest.shift

    @property
    def last(self) -> Translation:
        """The half that ends in the host-physical address."""
        return self.host or self.guest


def usable(translation: Translation, paging: Paging[A], access: A, address: int) -> bool:
    """Whether a cached translation serves an access as it is; not if the dirty flag must be set first.

    Permissions are judged by what was cached, under the registers as they are now.

    Raises
    ------
    Fault
        It does not permit the access. That the tables in memory may do so by now is not looked at: such a
        fault is spurious, and makes the processor forget the translation (SDM vol. 3, 4.10.4.3, 4.10.4.1).

    """
    if not paging.permits(access, translation.rights, translation.entry):
        raise paging.fault(Cause.DENIED, access, address, translation.rights, translation.entry)
    return not (access.writes and paging.dirty & ~translation.entry)


class Selection(NamedTuple):
    """Which translations an invalidation is about: those with this VPID, PCID and root; None is any.

    Global translations have every PCID, unless `keep_global`.
    """

    vpid: int | None = None
    pcid: int | None = None
    root: int | None = None
    keep_global: bool = False

    def takes(self, tag: Tag) -> bool:
        """Whether something with that tag goes."""
        if self.vpid not in (None, tag.vpid) or self.root not in (None, tag.root):
            return False
        if tag.pcid == ANY_PCID:
            return not self.keep_global
        return self.pcid in (None, tag.pcid)


Key = tuple[Tag, int, int]
"""Whose entry, how many bits of address one such entry covers, and the address above those bits."""


class TranslationCache:
    """TLB and paging-structure caches of one dimension."""

    def __init__(self) -> None:
        self._pages: dict[Key, Cached] = {}
        # By page of the guest, its pieces in `_pages`: an invalidation takes all of them.
        self._pieces: dict[Key, list[Key]] = {}
        self._tables: dict[Key, Start] = {}
        self._tags: set[Tag] = set()
        self._shifts: set[int] = set()
        self._sizes: set[int] = set()
        self._has_global = False

    def __len__(self) -> int:
        """How many TLB entries there are."""
        return len(self._pages)

    def vpids(self) -> set[int]:
        """The VPIDs that something is remembered of."""
        return {key[0].vpid for key in (*self._pages, *self._tables)}

    def roots(self) -> set[int]:
        """The roots that something is remembered of."""
        return {key[0].root for key in (*self._pages, *self._tables)}

    def find(self, tag: Tag, address: int) -> Cached | None:
        """The TLB entry for an address: one with this tag, or a global one."""
        for shift in self._shifts:
            cached = self._pages.get((tag, shift, address >> shift))
            if cached:
                return cached
        return self._find_global(tag, address) if self._has_global else None

    def _find_global(self, tag: Tag, address: int) -> Cached | None:
        tag = tag._replace(pcid=ANY_PCID)
        found = (self._pages.get((tag, shift, address >> shift)) for shift in self._shifts)
        return next((cached for cached in found if cached), None)

    def insert(self, tag: Tag, address: int, cached: Cached, *, is_global: bool = False) -> None:
        """Remember a translation that a walk has found; a walk that faults leaves nothing to remember."""
        if is_global:
            tag = tag._replace(pcid=ANY_PCID)
            self._has_global = True
        key = tag, cached.shift, address >> cached.shift
        page = tag, cached.guest.shift, address >> cached.guest.shift
        self._tags.add(tag)
        self._shifts.add(cached.shift)
        self._sizes.add(cached.guest.shift)
        self._pages[key] = cached
        self._pieces.setdefault(page, []).append(key)

    def tables(self, tag: Tag) -> "CachedTables":
        """The paging-structure caches as a walk with this tag uses them."""
        self._tags.add(tag)
        return CachedTables(self._tables, tag)

    def invalidate(self, selection: Selection) -> None:
        """Forget all that the selection takes."""
        self._pages = {key: page for key, page in self._pages.items() if not selection.takes(key[0])}
        self._pieces = {key: pieces for key, pieces in self._pieces.items() if not selection.takes(key[0])}
        self._tables = {key: table for key, table in self._tables.items() if not selection.takes(key[0])}

    def invalidate_address(self, selection: Selection, address: int, *, all_tables: bool = True) -> None:
        """Forget the page around an address, every piece of it, and tables.

        Of the paging-structure caches go all that the selection takes, as with INVLPG, or only those that a
        walk of the address would use, as with a page fault (SDM vol. 3, 4.10.4.1).
        """
        for tag in filter(selection.takes, self._tags):
            for size in self._sizes:
                self._forget_page((tag, size, address >> size))
            if not all_tables:
                for shift in TABLE_SHIFTS:
                    self._tables.pop((tag, shift, address >> shift), None)
        if all_tables:
            self._tables = {key: table for key, table in self._tables.items() if not selection.takes(key[0])}

    def _forget_page(self, page: Key) -> None:
        for key in self._pieces.pop(page, ()):
            piece = self._pages.get(key)
            if piece and piece.guest.shift == page[1]:  # or the guest has another page there by now
                del self._pages[key]


class CachedTables:
    """The paging-structure caches, for walks with one tag."""

    def __init__(self, tables: dict[Key, Start], tag: Tag) -> None:
        self._tables = tables
        self._tag = tag

    def deepest(self, steps: Sequence[Step], address: int) -> Start | None:
        """Where a walk of the address may begin without reading the entries above."""
        for step in reversed(steps[:-1]):
            start = self._tables.get((self._tag, step.shift, address >> step.shift))
            if start:
                return start
        return None

    def keep(self, shift: int, address: int, start: Start) -> None:
        """Remember an entry that references a table: present, well formed, its accessed flag set."""
        self._tables[self._tag, shift, address >> shift] = start
