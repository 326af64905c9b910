"""What the host does to the memory behind a guest."""

from __future__ import annotations

from collections.abc import Iterator

from mmu_model.snapshot import Recording, Snapshot

from .account import account, at, other_result, values
from .story import ALL, leaves, story


@story(
    "events/translation-changes/by-gpa-to-hva-or-hva-to-hpa",
    scenario="move-slot",
    before="before",
    after="moved",
    mmus=ALL,
)
def moving_a_slot_drops_its_translations(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """A slot moves from gfn 0x200 to 0x1000, with its memory: nothing maps the old frame afterwards."""
    if not leaves(before, 0x200) or leaves(after, 0x200):
        yield "the old frame was not mapped, or is still"
    for state, base in ((before, 0x200), (after, 0x1000)):
        if [slot.base_gfn for slot in state.memslots if slot.id == 1] != [base]:
            yield f"{state.name}: the slot does not begin at {base:#x}"


@story(
    "events/translation-changes/by-gpa-to-hva-or-hva-to-hpa",
    scenario="host-drop",
    before="before",
    after="dropped",
    mmus=ALL,
)
def what_the_host_takes_away_is_dropped(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """Two pages of the process go; translations of their frames go, that of a third stays."""
    had, has = ([bool(leaves(state, gfn)) for gfn in (0x200, 0x201, 0x202)] for state in (before, after))
    if had != [True] * 3 or has != [False, False, True]:
        yield f"mapped were {had}, and are {has}"


@account(
    "memory/backing/paged-at-any-time",
    "reaction-to-events/host-page/determined",
    scenario="host-drop",
    falsify=other_result(0, value=0x5EED),
    mmus=ALL,
)
def the_next_access_gets_what_the_host_has_then(recording: Recording) -> Iterator[str]:
    """The guest wrote a page (0x201) that the host takes away; no leaf maps it. A read then faults and finds zeros, by
    a leaf for the host's zero page, which may not be written; a write gets it a page of its own."""
    if values(recording) != [0]:
        yield f"read were {values(recording)}"
    found = {
        name: [(spte.host_writable, spte.writable) for _, spte in leaves(at(recording, name), 0x201)]
        for name in ("before", "dropped", "zero-page", "written")
    }
    own, zero = [(True, True)], [(False, False)]
    if found != {"before": own, "dropped": [], "zero-page": zero, "written": own}:
        yield f"the leaves are {found}"


@story(
    "reverse-map/all-sptes-of-a-gfn/swapping-out",
    scenario="many-aliases",
    before="sixty",
    after="dropped",
)
def all_entries_of_a_frame_go(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """A frame is mapped by sixty entries, all in its list; the host takes the page away, and none is left."""
    if len(leaves(before, 0x200)) != 60 or _listed(before, 0x200) != 60:
        yield f"{len(leaves(before, 0x200))} entries, of which {_listed(before, 0x200)} are listed"
    if leaves(after, 0x200) or _listed(after, 0x200):
        yield "some are left"


def _listed(snapshot: Snapshot, gfn: int) -> int:
    return sum(len(head.sptes) for slot in snapshot.memslots for head in slot.rmap if head.gfn == gfn)


@account(
    "memory/guest-memory/gpa-to-hva-aliases",
    "memory/guest-memory/in-the-process",
    scenario="shared-backing",
    falsify=other_result(0, value=0),
    mmus=ALL,
)
def two_frames_with_one_place_are_one_page(recording: Recording) -> Iterator[str]:
    """Two memslots give the process's same place: what is written by one frame (0x200) is read by the other (0x800),
    and both are mapped to one host frame."""
    both = at(recording, "both")
    if values(recording) != [0x123]:
        yield f"read were {values(recording)}"
    if len({slot.backing for slot in both.memslots if slot.id in (1, 2)}) != 1:
        yield "the slots have different places"
    if len({spte.pfn for gfn in (0x200, 0x800) for _, spte in leaves(both, gfn)}) != 1:
        yield "the frames are different, or not mapped"


@account(
    "introduction/dirty-tracking/writes-are-reported",
    scenario="dirty-log",
    falsify=other_result(-1, dirty=(0,)),
    mmus=ALL,
)
def the_log_has_what_was_written_since_the_last_one(recording: Recording) -> Iterator[str]:
    """Of the slot page 1 is written, and the log is read; then 0 and 2 are."""
    logs = [result.dirty for result in recording.results if result.dirty is not None]
    if [set(log) for log in logs] != [{1}, {0, 2}]:
        yield f"the logs are {logs}"
