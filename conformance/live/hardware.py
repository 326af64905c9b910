"""What guests and processors can do, and which pages it takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mmu_model.scenario.registers import CR4_LA57
from mmu_model.snapshot import Kind, MmuKind, Recording, Snapshot

from .account import account, at, page_faults, values
from .story import ALL, leaves, shadows, story


@story(
    "acronyms/tdp/meaning",
    scenario="four-level",
    before="created",
    after="written",
    mmus=(MmuKind.TDP, MmuKind.DIRECT),
)
def the_guests_tables_are_translated_too(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """With nested paging the tables that the processor walks for the guest's access (gfns 0x44 and 0x45) are found by
    KVM's tables themselves: there are leaves for their frames, accessed."""
    for gfn in (0x44, 0x45):
        if any(spte.accessed for _, spte in leaves(before, gfn)):
            yield f"gfn {gfn:#x} was accessed already"
        if [spte.accessed for _, spte in leaves(after, gfn)] != [True]:
            yield f"gfn {gfn:#x} is not mapped, or was not accessed"


@account(
    "virtual-and-real-hardware-supported/hardware/first-generation-and-two-dimensional",
    scenario="four-level",
    falsify=lambda recording: replace(recording, results=recording.results[:-1]),
    mmus=ALL,
)
def guests_run_with_one_dimension_and_with_two(recording: Recording) -> Iterator[str]:
    """With npt=0 the processor walks pages that shadow the guest's tables, as those do that know nothing else; with npt=1
    direct ones, and the guest's tables itself. The guest reads the same and has the same faults."""
    last = at(recording, "faults-leave-nothing")
    (vcpu,) = last.vcpus
    root = last.by_id()[vcpu.root_mmu.root.page] if vcpu.root_mmu.root.page is not None else None
    if root is None or root.role.direct != (last.mmu is not MmuKind.SHADOW):
        yield f"{last.mmu.value}: the root is {root}"
    filled = 0xE5FFE5FFE5FFE5FF
    if [value for value in values(recording) if value is not None] != [filled, filled]:
        yield f"read were {values(recording)}"
    if page_faults(recording) != [(0, 0x50000000), (6, 0x50000000), (5, 0x4000)]:
        yield f"the faults are {page_faults(recording)}"


@story(
    "virtual-and-real-hardware-supported/hardware/npt-for-guests",
    scenario="nested-npt",
    before="hypervisor",
    after="nested",
    mmus=(MmuKind.TDP, MmuKind.DIRECT),
)
def a_hypervisor_under_npt_uses_npt(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """On a host that uses NPT, the guest has a guest run with nested tables of its own: their root is loaded in
    guest_mmu and shadows the hypervisor's, for a nested guest."""
    if any(page.role.guest_mode for page in before.pages) or before.vcpus[0].guest_mode:
        yield "a nested guest runs already"
    root = after.vcpus[0].guest_mmu.root.page
    if not after.vcpus[0].guest_mode or after.vcpus[0].mmu != "guest_mmu" or root is None:
        yield "no nested guest runs"
    elif after.by_id()[root].role.direct or not after.by_id()[root].role.guest_mode:
        yield "its root shadows no nested tables"


@story(
    "virtual-and-real-hardware-supported/hardware/emulated-modes-and-features",
    scenario="five-level",
    before="lower",
    after="upper",
    mmus=ALL,
    refutes=True,
)
def guests_have_five_levels(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """A guest has CR4.LA57 and uses an address (2 ** 48) that needs the fifth level: the frame 0x204 is mapped
    and accessed."""
    if not all(state.vcpus[0].cr4 & CR4_LA57 for state in (before, after)):
        yield "the guest has no five levels"
    had, has = ([spte.accessed for _, spte in leaves(state, 0x204)] for state in (before, after))
    if any(had) or has != [True]:
        yield "the frame was accessed before, or is not now"


@story(
    "shadow-pages/structure/may-mix-leaf-and-nonleaf",
    scenario="gigabyte-pages",
    before="large-host-page",
    after="small-host-page",
    mmus=ALL,
)
def a_page_has_leaves_and_other_entries(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """A page at level 2 (gfn 0x40000) has a leaf for 2 MiB of a large host page, and gets an entry that leads to a page
    for small ones."""
    for state, kinds in ((before, {Kind.LEAF}), (after, {Kind.LEAF, Kind.TABLE})):
        (page,) = (page for page in state.pages if (page.gfn, page.role.level) == (0x40000, 2))
        if {spte.kind for spte in page.sptes().values()} != kinds:
            yield f"{state.name}: the entries are {page.sptes()}"


@story(
    "role.quadrant/several-pages-for-one-table",
    scenario="quadrants",
    before="lower-half",
    after="both-halves",
)
def a_32_bit_table_has_several_pages(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """A leaf table (0x42) has one page, and two when its other half is used; the directory (0x40) has four pages of level
    2, whatever is used of it."""
    for state, halves in ((before, [0]), (after, [0, 1])):
        if sorted(page.role.quadrant for page in shadows(state, 0x42, 1)) != halves:
            yield f"{state.name}: the table does not have pages for {halves}"
        if sorted(page.role.quadrant for page in shadows(state, 0x40, 2)) != [0, 1, 2, 3]:
            yield f"{state.name}: the directory does not have four pages"
