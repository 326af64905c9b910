"""Why an access faults, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mmu_model.snapshot import Kind, MmuKind, Recording, Snapshot, Spte
from mmu_model.snapshot.spte import USER, WRITABLE

from .account import account, at, other_result, other_snapshot, page_faults, same_as, values
from .predicate import leaf_gfn, with_entry, with_page
from .reading import leaves_below, trees
from .story import ALL, leaves, shadows, story

NESTED = (MmuKind.TDP, MmuKind.DIRECT)


@story(
    "reaction-to-events/cause-missing/missing-translation",
    "events/missing-or-protected/access",
    scenario="four-level",
    before="by-the-user",
    after="upper-half",
    mmus=ALL,
)
def an_access_without_translation_gets_one(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """The first write to a page, which did not fault in the guest: before no leaf for its frame (0x210), then one."""
    if leaves(before, 0x210):
        yield "the page was mapped before it was accessed"
    if [(spte.accessed, spte.writable) for _, spte in leaves(after, 0x210)] != [(True, True)]:
        yield "the page is not mapped by one leaf"


@story(
    "reaction-to-events/cause-dirty-logging/write-protected",
    scenario="dirty-log",
    before="before",
    after="logging",
    mmus=ALL,
)
def logging_takes_the_right_to_write(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """When logging is switched on, no leaf of the slot stays writable; none goes."""
    for gfn in (0x200, 0x201):
        if not any(spte.writable for _, spte in leaves(before, gfn)):
            yield f"gfn {gfn:#x} was not writable"
        if not leaves(after, gfn) or any(spte.writable for _, spte in leaves(after, gfn)):
            yield f"gfn {gfn:#x} is writable, or gone"


@story(
    "reaction-to-events/cause-dirty-logging/write-protected",
    "reaction-to-events/cause-protected/protected-translation",
    "events/missing-or-protected/access",
    scenario="dirty-log",
    before="logging",
    after="one-written",
    mmus=ALL,
)
def the_first_write_is_noted_and_permitted(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """A write to a page (0x201) that was mapped without W: it is in the dirty bitmap, and has W; no other has."""
    for state, allowed, noted in ((before, False, ()), (after, True, (0x201,))):
        if [spte.writable for _, spte in leaves(state, 0x201)] != [allowed]:
            yield f"{state.name}: it is {'not ' * allowed}writable"
        if any(spte.writable for _, spte in leaves(state, 0x200)):
            yield f"{state.name}: the other page is writable"
        if [slot.dirty for slot in state.memslots if slot.id == 1] != [noted]:
            yield f"{state.name}: the bitmap does not have {noted}"


@story(
    "reaction-to-events/cause-shadowed-table/write-protected",
    scenario="table-begins",
    before="no-table-yet",
    after="shadowed",
)
def a_table_that_begins_to_be_shadowed_is_protected(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """The guest wrote the frame (0x4a), and its leaf has W; once the frame is shadowed as a table, it has not."""
    if shadows(before, 0x4A, 1) or not any(spte.writable for _, spte in leaves(before, 0x4A)):
        yield "it is shadowed already, or was not writable"
    found = leaves(after, 0x4A)
    if not shadows(after, 0x4A, 1) or not found or any(spte.writable for _, spte in found):
        yield "it is not shadowed, or writable still"


def _leaf_for_the_denied(snapshot: Snapshot) -> Snapshot:
    """The stack, which is the kernel's, for the user as well."""
    for page in shadows(snapshot, 0x43, 1):
        for index, spte in page.sptes().items():
            if spte.kind is Kind.LEAF and leaf_gfn(page, index) == 4:
                return with_page(snapshot, with_entry(page, index, Spte(spte.raw | USER, spte.level)))
    raise AssertionError("not mapped")


@account(
    "reaction-to-events/cause-guest-fault/guest-denies",
    scenario="four-level",
    falsify=other_snapshot("faults-leave-nothing", _leaf_for_the_denied),
)
def what_the_guest_denies_gets_no_entry(recording: Recording) -> Iterator[str]:
    """Accesses to 0x50000000, where the guest has nothing, and of the user to 0x4000, which is the kernel's, fault;
    there is no leaf for the one and none with U for the other."""
    if [cr2 for _, cr2 in page_faults(recording)] != [0x50000000, 0x50000000, 0x4000]:
        yield f"the faults are {page_faults(recording)}"
    snapshot = at(recording, "faults-leave-nothing")
    for tree in trees(snapshot):
        for leaf in leaves_below(snapshot, tree):
            if leaf.address == 0x50000000 or (leaf.address == 0x4000 and leaf.spte.user):
                yield f"{leaf.address:#x} is mapped by {leaf.spte}"


@account(
    "reaction-to-events/guest-walk-denied/fault-reflected",
    scenario="four-level",
    falsify=other_result(-1, error_code=4),
)
def the_guest_gets_the_fault_of_its_tables(recording: Recording) -> Iterator[str]:
    """A read and a user's write where no entry is present, and a user's read of the kernel's page: the error codes have
    P, W and U as the guest's tables say, though KVM has no entry for any of them that the user could use."""
    expected = [(0, 0x50000000), (2 | 4, 0x50000000), (1 | 4, 0x4000)]
    if page_faults(recording) != expected:
        yield f"the faults are {page_faults(recording)}"


def _protect_the_directory(snapshot: Snapshot) -> Snapshot:
    for page in snapshot.pages:
        for index, spte in page.sptes().items():
            if spte.kind is Kind.LEAF and leaf_gfn(page, index) == 0x44:
                return with_page(snapshot, with_entry(page, index, Spte(spte.raw & ~WRITABLE, spte.level)))
    raise AssertionError("not mapped")


@account(
    "reaction-to-events/not-in-direct-mode/footnote",
    scenario="write-upper-level",
    falsify=other_snapshot("before", _protect_the_directory),
    mmus=NESTED,
)
def under_nested_paging_tables_are_memory_like_other(recording: Recording) -> Iterator[str]:
    """The guest writes a directory (0x44) and uses the new entry: the frame had W before, and KVM's pages are the same
    after. An access that its tables deny faults in the guest and leaves no entry."""
    before, *others = (at(recording, name) for name in ("before", "directory-written", "walked-again"))
    if [spte.writable for _, spte in leaves(before, 0x44)] != [True]:
        yield "the directory is protected"
    if any(state.pages != before.pages for state in others):
        yield "KVM's pages have changed"
    if page_faults(recording) != [(0, 0x80000000)]:
        yield f"the faults are {page_faults(recording)}"


@story(
    "reaction-to-events/shadow-walk/finds-or-instantiates",
    scenario="real-mode",
    before="touched",
    after="more",
    mmus=ALL,
)
def tables_on_the_way_are_used_or_made(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """An access 2 MiB further: the page at level 1 that was missing is made, all above it are those that there were."""
    had, has = ({(page.role_word, page.gfn) for page in state.pages} for state in (before, after))
    if not had <= has or len(after.pages) != len(has):
        yield "a page is gone, or there twice"
    if {(word & 15, gfn) for word, gfn in has - had} != {(1, 0x200)}:
        yield f"made were {has - had}"


@story(
    "spt/accessed-by-kvm-and-hardware",
    scenario="prefetch-used",
    before="made",
    after="used",
    mmus=(MmuKind.DIRECT, MmuKind.SHADOW),
)
def the_processor_uses_what_is_there(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """An entry that KVM made along with another one, without the accessed flag, is used for the first time. It permits
    the access, so KVM is not asked; all that changes is that the flag is in it."""
    (old,), (new,) = leaves(before, 0x201), leaves(after, 0x201)
    if old[1].accessed or not new[1].accessed:
        yield "the accessed flag does not appear"
    used = replace(after, name=before.name, pages=before.pages)
    index = next(index for index, spte in new[0].sptes().items() if spte == new[1])
    if used != before or with_page(after, with_entry(new[0], index, old[1])).pages != before.pages:
        yield "more has changed"


@story(
    "reaction-to-events/emulate/instruction",
    scenario="write-upper-level",
    before="before",
    after="walked-again",
)
def a_write_to_a_directory_is_carried_out(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """The directory (0x44) is never writable, and yet its entry 1 leads to the table (0x45) that the guest wrote there
    when it is walked again; before to another one."""
    for state, table in ((before, 0x46), (after, 0x45)):
        (page,) = shadows(state, 0x44, 2)
        spte = page.sptes().get(1)
        below = [child.gfn for child in state.pages if spte and child.spt == spte.pfn]
        if below != [table]:
            yield f"{state.name}: entry 1 leads to {below}"
        if any(spte.writable for _, spte in leaves(state, 0x44)):
            yield f"{state.name}: the directory is writable"


@account(
    "translation/primary-job/programs-the-processor",
    "unsync/like-a-stale-tlb",
    "synchronized-and-unsynchronized-pages/guest-events/flush-and-invlpg",
    "synchronized-and-unsynchronized-pages/reachable-table/guest-must-invlpg",
    scenario="stale-translation",
    falsify=other_result(0, value=0xA2),
)
def a_changed_entry_is_seen_after_a_flush(recording: Recording) -> Iterator[str]:
    """Two entries lead to other frames now, with other contents (0xa0 and 0xa1; 0xa2 and 0xa3). Reads find the old
    ones; after INVLPG of the one address the new one there, and after MOV to CR3 at both."""
    if values(recording) != [0xA0, 0xA1, 0xA2, 0xA1, 0xA3]:
        yield f"read were {values(recording)}"


@account(
    "synchronized-and-unsynchronized-pages/guest-events/flush-and-invlpg",
    "events/invalidations/invlpg-and-invlpga",
    scenario="stale-translation",
    falsify=same_as("one-invalidated", "read"),
)
def invlpg_brings_one_address_in_step(recording: Recording) -> Iterator[str]:
    """The leaf at the address that INVLPG names is of the frame which the guest's entry has, not of the old one; the
    one beside it still is of the old."""
    for name, expected in (("read", (0x200, 0x201)), ("one-invalidated", (0x202, 0x201))):
        (page,) = shadows(at(recording, name), 0x45, 1)
        found = tuple(leaf_gfn(page, index) for index in (0, 1) if index in page.sptes())
        if found != expected:
            yield f"{name}: the leaves are of {found}"


@story(
    "synchronized-and-unsynchronized-pages/reachable-table/saves-emulation",
    scenario="stale-translation",
    before="before",
    after="written",
)
def further_writes_to_a_table_are_not_emulated(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """Two entries of a table (0x45) are written. None of its leaves goes, as it would with an emulated write: the table
    is unsync, and the guest may write it."""
    (old,), (new,) = shadows(before, 0x45, 1), shadows(after, 0x45, 1)
    if old.unsync or leaves(before, 0x45):
        yield "the table was written before"
    if not new.unsync or [spte.writable for _, spte in leaves(after, 0x45)] != [True]:
        yield "the table cannot be written"
    if [entry.index for entry in new.entries] != [0, 1, 2, 3]:
        yield "a translation is gone"
