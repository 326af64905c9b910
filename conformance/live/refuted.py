"""Where a kernel does other than the document says, and where only one of the two does as it says."""

from __future__ import annotations

from collections.abc import Iterator

from mmu_model.scenario.registers import EFER_NX
from mmu_model.snapshot import Snapshot

from .story import leaves, shadows, story


@story(
    "reaction-to-events/invlpg-reinstantiate/indicated-translation",
    scenario="invlpg",
    before="before",
    after="after",
    kernels=("6.1",),
)
def invlpg_brings_the_new_translation(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """What the guest's entry maps now is mapped at once."""
    if leaves(before, 0x208):
        yield "the new translation was there before"
    if not leaves(after, 0x208):
        yield "the new translation is not there"


@story(
    "reaction-to-events/invlpg-reinstantiate/indicated-translation",
    scenario="invlpg",
    before="before",
    after="after",
    kernels=("6.12",),
    refutes=True,
)
def invlpg_brings_nothing_new(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """The old translation is dropped and no new one made."""
    if not leaves(before, 0x200) or leaves(after, 0x200):
        yield "the old translation is not dropped"
    if leaves(after, 0x208):
        yield "the new translation is there"


@story(
    "reaction-to-events/update-modified/translations",
    scenario="write-upper-level",
    before="before",
    after="directory-written",
    refutes=True,
)
def an_emulated_write_only_zaps(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """The guest points a directory entry (0x44, entry 1) at another table: the spte goes, none is made."""
    had, has = ([1 in page.sptes() for page in shadows(state, 0x44, 2)] for state in (before, after))
    if had != [True]:
        yield "the entry was not shadowed"
    if has != [False]:
        yield "the entry is still shadowed, or its page is gone"


@story(
    "role.efer_nx/efer.nx",
    scenario="efer-nx-off",
    before="nx-off",
    after="nx-on",
    refutes=True,
)
def efer_nx_is_set_whatever_the_guest_says(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """With shadow paging role.efer_nx is 1 while the guest's EFER.NX is 0, as it is when that is 1."""
    if before.vcpus[0].efer & EFER_NX or not after.vcpus[0].efer & EFER_NX:
        yield "the guest's EFER.NX does not go from 0 to 1"
    if not all(page.role.efer_nx for page in (*before.pages, *after.pages)):
        yield "a page has efer_nx=0"


@story(
    "role.has_4_byte_gpte/guest-pte-size",
    scenario="large-pages-32-bit",
    before="large-host-pages",
    after="small-host-pages",
    refutes=True,
)
def direct_pages_below_32_bit_tables_keep_the_bit(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """Direct pages, which shadow no gptes at all, have has_4_byte_gpte=1 below a 32-bit guest's table."""
    if any(page.role.direct for page in before.pages):
        yield "there are direct pages already"
    if {page.role.has_4_byte_gpte for page in after.pages if page.role.direct} != {1}:
        yield "no direct page has the bit"
