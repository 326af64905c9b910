"""Accesses to addresses without memory, and the generations of memslots."""

from __future__ import annotations

from collections.abc import Iterator

from mmu_model.snapshot import Kind, MmuKind, Recording, Snapshot

from .account import account, at, other_result, values
from .story import ALL, story

FIRST, SECOND = 0xD0000, 0xD0001


def _entries(snapshot: Snapshot) -> dict[int, int]:
    """Generations by guest frame of all MMIO entries."""
    sptes = (spte for page in snapshot.pages for spte in page.sptes().values())
    return {spte.mmio_gfn: spte.mmio_generation for spte in sptes if spte.kind is Kind.MMIO}


def _cached(snapshot: Snapshot) -> tuple[int, int, int]:
    """Address, frame and generation in the vCPU's cache."""
    mmio = snapshot.vcpus[0].mmio
    return mmio.gva, mmio.gfn, mmio.generation


@story(
    "reaction-to-events/host-page-mmio/info-cached",
    "reaction-to-events/cause-mmio/untranslatable",
    scenario="mmio-cache",
    before="nothing-yet",
    after="first",
    mmus=ALL,
)
def the_first_access_without_memory_is_remembered(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """No memslot has the frame: the vCPU's cache has it then, with the linear address if tables are shadowed."""
    linear = 0x40001000 if after.mmu is MmuKind.SHADOW else 0
    if _entries(before) or before.vcpus[0].mmio.gfn:
        yield "something was remembered before"
    if _cached(after) != (linear, FIRST, after.memslot_generation[0]):
        yield f"the cache has {_cached(after)}"


@story(
    "reaction-to-events/mmio-fault-cache/cached-and-emulated",
    scenario="mmio-cache",
    before="second",
    after="found",
    mmus=ALL,
)
def an_entry_that_is_found_goes_into_the_cache(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """The cache had another address (0x40002000); one for which there is an entry is read: no entry changes, and the
    cache has what the entry says, the linear address where tables are shadowed, and the generation."""
    linear = 0x40001000 if after.mmu is MmuKind.SHADOW else 0
    if before.vcpus[0].mmio.gfn != SECOND:
        yield "the cache had another frame"
    if before.pages != after.pages or set(_entries(after)) != {FIRST, SECOND}:
        yield "the pages have changed"
    if _cached(after) != (linear, FIRST, after.memslot_generation[0]):
        yield f"the cache has {_cached(after)}"
    raw = next(
        entry.raw
        for page in after.pages
        for entry in page.entries
        if page.spte(entry).kind is Kind.MMIO and page.spte(entry).mmio_gfn == FIRST
    )
    if after.vcpus[0].mmio.access != raw & 6:
        yield f"the cache has access {after.vcpus[0].mmio.access}, the entry {raw:#x}"


@account(
    "reaction-to-events/cause-mmio/untranslatable",
    "reaction-to-events/mmio-fault-cache/cached-and-emulated",
    scenario="mmio-cache",
    falsify=other_result(-1, value=0xE5FFE5FFE5FFE5FF),
    mmus=ALL,
)
def the_process_answers_for_what_is_no_memory(recording: Recording) -> Iterator[str]:
    """The read of memory gives what fills it; those of addresses without give 0, which is the process's answer: at the
    first access, and where an entry is found."""
    if values(recording) != [0xE5FFE5FFE5FFE5FF, 0, 0]:
        yield f"read were {values(recording)}"
    if not _entries(at(recording, "found")):
        yield "there is no MMIO entry"


@story(
    "fast-invalidation-of-mmio-sptes/generation/global-in-memslots",
    scenario="mmio",
    before="three-entries",
    after="generation-changed",
    mmus=ALL,
)
def a_change_of_memslots_increases_the_generation(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """A slot is added to the address space outside of SMM: its generation increases, that of SMM does not."""
    (old, old_smm), (new, new_smm) = before.memslot_generation, after.memslot_generation
    if len(after.memslots) != len(before.memslots) + 1:
        yield "no slot was added"
    if not new > old or new_smm != old_smm:
        yield f"the generations were {old}, {old_smm}, and are {new}, {new_smm}"


@story(
    "fast-invalidation-of-mmio-sptes/generation/global-in-memslots",
    scenario="delete-slot",
    before="before",
    after="obsolete",
    mmus=ALL,
)
def a_deletion_increases_it_too(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """A slot is deleted."""
    if len(after.memslots) != len(before.memslots) - 1:
        yield "no slot was deleted"
    if not after.memslot_generation[0] > before.memslot_generation[0]:
        yield "the generation is not higher"


@story(
    "fast-invalidation-of-mmio-sptes/stale-information/similar-technique",
    scenario="mmio",
    before="three-entries",
    after="generation-changed",
    mmus=ALL,
    refutes=True,
)
def no_page_is_touched_when_a_slot_is_added(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """Three MMIO entries become stale by the generation alone: pages and entries are the same, none is obsolete."""
    if len(_entries(before)) != 3:
        yield "there are no three MMIO entries"
    if after.pages != before.pages:
        yield "a page has changed"
    if after.mmu_valid_gen != before.mmu_valid_gen:
        yield "the pages are obsolete"
    for state, expected in ((before, False), (after, True)):
        now = state.memslot_generation[0]
        if {generation < now for generation in _entries(state).values()} != {expected}:
            yield f"{state.name}: the entries are {'not ' * expected}stale"
