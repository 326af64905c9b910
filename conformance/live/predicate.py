"""Predicates on snapshots and the corruptions that show their teeth."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeAlias, TypeVar

from mmu_model.snapshot import Entry, Kind, PageId, ShadowPage, Snapshot, Spte, Word
from mmu_model.snapshot.role import RoleWord

Check: TypeAlias = Callable[[Snapshot], Iterator[str]]
Corruption: TypeAlias = Callable[[Snapshot], Snapshot | None]
C = TypeVar("C", bound=Callable[..., Iterator[str]])


@dataclass(frozen=True)
class Claimed(Generic[C]):
    """A check that yields what contradicts ``statements`` (ids of the spec), nothing if they hold.

    ``corrupt`` gives a snapshot that the check must refuse, or None where the snapshot has nothing the
    statements speak of.
    """

    statements: tuple[str, ...]
    check: C
    corrupt: Corruption

    @property
    def name(self) -> str:
        """The name of the check."""
        return str(getattr(self.check, "__name__"))  # noqa: B009  a function's, which not all that is called has


class Predicate(Claimed[Check]):
    """Is asked of a snapshot by itself."""


PREDICATES: list[Predicate] = []


def predicate(*statements: str, corrupt: Corruption) -> Callable[[Check], Check]:
    """Registers a check for the statements of these ids."""

    def register(check: Check) -> Check:
        PREDICATES.append(Predicate(statements, check, corrupt))
        return check

    return register


def corrupt_page(
    choose: Callable[[ShadowPage], bool], change: Callable[[ShadowPage], ShadowPage]
) -> Corruption:
    """Changes the first page that ``choose`` takes."""

    def corrupt(snapshot: Snapshot) -> Snapshot | None:
        for page in snapshot.pages:
            if choose(page):
                return with_page(snapshot, change(page))
        return None

    return corrupt


def with_page(snapshot: Snapshot, page: ShadowPage) -> Snapshot:
    """The snapshot with ``page`` in the place of the one of its id."""
    return replace(snapshot, pages=tuple(page if old.id == page.id else old for old in snapshot.pages))


def with_role(page: ShadowPage, **fields: Any) -> ShadowPage:
    """The page with other fields in its role."""
    return replace(page, role_word=RoleWord(replace(page.role, **fields).word))


def with_entry(page: ShadowPage, index: int, spte: Spte) -> ShadowPage:
    """The page with another word at ``spt[index]``."""
    entries = tuple(
        replace(entry, raw=Word(spte.raw)) if entry.index == index else entry for entry in page.entries
    )
    return replace(page, entries=entries)


def title(page: ShadowPage) -> str:
    """How a complaint calls a page."""
    return f"page {page.id} (gfn {page.gfn:#x}, {page.role})"


def has_gptes(page: ShadowPage) -> bool:
    """The page shadows a table of the guest (sp_has_gptes)."""
    return not page.role.direct and not page.role.passthrough


def entry_of(page: ShadowPage, index: int) -> Entry:
    """``page.entries``, which are in order, at an index that is there."""
    return page.entries[bisect_left(page.entries, index, key=lambda entry: entry.index)]


def leaf_gfn(page: ShadowPage, index: int) -> int:
    """The guest frame that the leaf at ``index`` maps (kvm_mmu_page_get_gfn)."""
    if page.has_shadowed_translation:
        translation = entry_of(page, index).shadowed_translation
        if translation is not None:
            return translation >> 12
    return page.gfn + (index << 9 * (page.role.level - 1))


def children(snapshot: Snapshot) -> Iterator[tuple[ShadowPage, int, ShadowPage | None]]:
    """Every entry that points to a table: the page, the index, and the page that owns the table."""
    by_spt: dict[int, ShadowPage] = {page.spt: page for page in snapshot.pages}
    for page in snapshot.pages:
        for index, spte in page.sptes().items():
            if spte.kind is Kind.TABLE:
                yield page, index, by_spt.get(spte.pfn)


def loaded(snapshot: Snapshot) -> list[PageId]:
    """The roots that vCPUs hold, current and previous, once for each time."""
    found: list[PageId | None] = []
    for vcpu in snapshot.vcpus:
        for mmu in (vcpu.root_mmu, vcpu.guest_mmu):
            found += [mmu.root.page, *mmu.pae_root, *(root.page for root in mmu.prev_roots)]
    return [page for page in found if page is not None]
