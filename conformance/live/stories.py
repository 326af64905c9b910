"""What the document says happens at an event, and does."""

from __future__ import annotations

from collections.abc import Iterator

from mmu_model.snapshot import Kind, MmuKind, Snapshot

from .story import ALL, leaves, shadows, story


@story(
    "write_flooding_count/counts-emulations-then-unmaps",
    "write_flooding_count/emulations-of-protected-tables",
    scenario="write-flooding",
    before="twice",
    after="flooded",
)
def the_third_write_zaps_the_directory(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """Two writes are counted; the third has the shadow page of the directory (0x45) go."""
    if [page.write_flooding_count for page in shadows(before, 0x45, 2)] != [2]:
        yield "two writes were not counted"
    if shadows(after, 0x45, 2):
        yield "the directory is still shadowed"


@story(
    "synchronized-and-unsynchronized-pages/reachable-table/protection-removed",
    "reaction-to-events/unsync/tried",
    "reaction-to-events/unsync-done/guest-continues",
    "unsync/may-not-match",
    scenario="unsync",
    before="in-sync",
    after="out-of-sync",
)
def a_write_to_a_leaf_table_lets_it_go_out_of_sync(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """The table at 0x45 was write-protected; after the write it is unsync and the guest may write it."""
    if any(page.unsync for page in shadows(before, 0x45, 1)):
        yield "out of sync before the write"
    if not all(page.unsync for page in shadows(after, 0x45, 1)):
        yield "in sync after the write"
    if not any(spte.writable for _, spte in leaves(after, 0x45)):
        yield "the table is not writable"
    if not leaves(after, 0x201):
        yield "the entry that was written does not keep its translation"


@story(
    "synchronized-and-unsynchronized-pages/tlb-flush/synchronizes-all-reachable",
    "synchronized-and-unsynchronized-pages/side-effect/resynchronized-on-flush",
    "unsync/synchronized-on-flush",
    scenario="cr3-reload",
    before="out-of-sync",
    after="in-sync",
)
def loading_cr3_synchronizes(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """MOV to CR3 leaves no unsync page below the root; what the guest's entry no longer maps is gone."""
    if not any(page.unsync for page in before.pages):
        yield "nothing was out of sync"
    if any(page.unsync for page in after.pages):
        yield "a page is still out of sync"
    if leaves(after, 0x200):
        yield "the old translation is still there"


@story(
    "synchronized-and-unsynchronized-pages/reachable-table/synchronized-on-invlpg",
    "reaction-to-events/invlpg-drop/affected-translations",
    scenario="invlpg",
    before="before",
    after="after",
)
def invlpg_drops_the_translation_and_no_other(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """The entry of the page goes; the one beside it, as stale, stays."""
    if not leaves(before, 0x200) or leaves(after, 0x200):
        yield "the translation that INVLPG names is not dropped"
    if not leaves(after, 0x201):
        yield "another translation is dropped"


@story(
    "reaction-to-events/notifier-drop/translations",
    "reaction-to-events/notifier-called/updated-hva",
    scenario="host-drop",
    before="before",
    after="dropped",
    mmus=ALL,
)
def the_notifier_drops_every_translation(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """Of two frames that the host drops no leaf is left, of a third all are."""
    for gfn in (0x200, 0x201):
        if not leaves(before, gfn):
            yield f"gfn {gfn:#x} was not mapped"
        if leaves(after, gfn):
            yield f"gfn {gfn:#x} is still mapped"
    if len(leaves(after, 0x202)) != len(leaves(before, 0x202)):
        yield "gfn 0x202 was not dropped by the host"


@story(
    "mmu_valid_gen/fast-zap",
    "mmu_valid_gen/obsolete-unusable",
    "root_count/not-destroyed-while-referenced",
    "role.invalid/unusable",
    scenario="delete-slot",
    before="before",
    after="obsolete",
)
def deleting_a_slot_makes_all_pages_obsolete(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """The generation changes; only roots that a vCPU holds are left, invalid and of the old generation."""
    if after.mmu_valid_gen != before.mmu_valid_gen ^ 1:
        yield "the generation is the same"
    for page in after.pages:
        if not page.role.invalid or page.mmu_valid_gen != before.mmu_valid_gen or not page.root_count:
            yield f"page {page.id} is left"
    if {page.gfn for page in after.pages} != {page.gfn for page in before.pages if page.root_count}:
        yield "not just the roots are left"


@story(
    "mmu_valid_gen/tdp-role.invalid-suffices",
    "mmu_valid_gen/tdp-does-not-use-it",
    scenario="delete-slot",
    before="before",
    after="obsolete",
    mmus=(MmuKind.TDP,),
)
def tdp_roots_become_invalid(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """Of TDP pages the root alone is left, invalid; it lost the reference of the TDP MMU itself."""
    if [page.tdp_mmu_root_count for page in before.pages if page.ptep is None] != [2]:
        yield "the root had another count before"
    if [(page.role.invalid, page.tdp_mmu_root_count) for page in after.pages] != [(1, 1)]:
        yield "not just an invalid root is left"


@story(
    "mmu_valid_gen/load-new-root",
    scenario="delete-slot",
    before="obsolete",
    after="generation-1",
    mmus=ALL,
)
def the_vcpu_loads_a_new_root(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """Once it runs again, nothing invalid is left, and its root is of the new generation."""
    if not any(page.role.invalid for page in before.pages):
        yield "nothing was obsolete"
    if any(page.role.invalid for page in after.pages) or not after.pages:
        yield "something obsolete is left"


@story(
    "fast-invalidation-of-mmio-sptes/check/mismatch-slow-path",
    "reaction-to-events/mmio-fault-generation/checked",
    "reaction-to-events/shadow-walk-mmio/spte-caches-info",
    scenario="mmio",
    before="generation-changed",
    after="renewed",
)
def an_access_renews_a_stale_mmio_entry(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """Of the entries of an older generation the one that is used gets the current one; others do not."""

    def generations(snapshot: Snapshot) -> dict[int, int]:
        sptes = (spte for page in snapshot.pages for spte in page.sptes().values())
        return {spte.mmio_gfn: spte.mmio_generation for spte in sptes if spte.kind is Kind.MMIO}

    now = after.memslot_generation[0] & 0x7FFFF
    old, new = generations(before), generations(after)
    if not old or any(generation >= now for generation in old.values()):
        yield "the entries were not stale"
    if new != {**old, 0xD0000: now}:
        yield f"generations are {new}"


@story(
    "large-pages/combinations/4m-as-two-2m",
    scenario="large-pages-32-bit",
    before="large-host-pages",
    after="small-host-pages",
)
def four_megabytes_are_two_large_pages(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """A 4 MiB page on large host pages is two leaves at level 2; on small ones two direct pages."""
    if [spte.level for gfn in (0x400, 0x600) for _, spte in leaves(before, gfn)] != [2, 2]:
        yield "it is not mapped by two leaves at level 2"
    if any(page.role.direct for page in before.pages):
        yield "there are direct pages already"
    direct = [page for page in after.pages if page.role.direct and page.gfn in (0x800, 0xA00)]
    if sorted((page.gfn, page.role.level) for page in direct) != [(0x800, 1), (0xA00, 1)]:
        yield "there are no two direct pages"


@story(
    "role.direct/examples",
    "large-pages/host-page/large",
    scenario="gigabyte-pages",
    before="large-host-page",
    after="small-host-page",
)
def the_host_page_limits_the_level(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """Under a 1 GiB guest page a large host page is a direct leaf at level 2, a small one at level 1."""
    if [(spte.level, page.role.direct) for page, spte in leaves(before, 0x40000)] != [(2, 1)]:
        yield "the large host page is not a leaf at level 2"
    if leaves(before, 0x40400):
        yield "the small host page is mapped already"
    if [(spte.level, page.role.direct) for page, spte in leaves(after, 0x40400)] != [(1, 1)]:
        yield "the small host page is not a leaf at level 1"


@story(
    "emulating-cr0.wp/kernel-write/u0-w1",
    "emulating-cr0.wp/read/u1-w0",
    "emulating-cr0.wp/two-sptes/by-fault-type",
    scenario="cr0-wp-clear",
    before="written-by-the-supervisor",
    after="read-by-the-user",
)
def read_only_for_the_user_writable_for_the_kernel(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """After the kernel's write W is set and U clear; after the user's read it is the reverse."""
    if [(spte.user, spte.writable) for _, spte in leaves(before, 0x200)] != [(False, True)]:
        yield "the kernel's write does not leave u=0, w=1"
    if [(spte.user, spte.writable) for _, spte in leaves(after, 0x200)] != [(True, False)]:
        yield "the user's read does not leave u=1, w=0"


@story(
    "emulating-cr0.wp/smep/nx-set",
    "emulating-cr0.wp/smep/user-fault-reverts",
    scenario="cr0-wp-clear-smep",
    before="written-by-the-supervisor",
    after="fetched-by-the-user",
)
def with_smep_the_kernels_spte_is_not_executable(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """After the kernel's write NX is set too; after the user's fetch it is clear again."""
    if [spte.executable for _, spte in leaves(before, 0x200)] != [False]:
        yield "the kernel's write leaves it executable"
    if [(spte.executable, spte.user) for _, spte in leaves(after, 0x200)] != [(True, True)]:
        yield "the user's fetch does not revert it"


@story(
    "emulating-cr0.wp/roles/cr0.wp-in-role",
    "emulating-cr0.wp/roles/smep-in-role",
    "reaction-to-events/mov-cr0-cr4-efer-context/set-up",
    scenario="cr0-wp-clear-smep",
    before="written-again",
    after="wp-set",
)
def other_bits_are_other_pages(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """With WP set the same tables get shadow pages of another role; the first ones stay, for later."""
    roles = {(page.role.cr0_wp, page.role.smep_andnot_wp) for page in after.pages}
    if {(page.role.cr0_wp, page.role.smep_andnot_wp) for page in before.pages} != {(0, 1)}:
        yield "the first pages have other roles"
    if roles != {(0, 1), (1, 0)} or len(after.pages) != 2 * len(before.pages):
        yield f"there are {len(after.pages)} pages of roles {roles}"


@story(
    "large-pages/write-protected/no-overlap",
    scenario="large-page-with-table",
    before="large",
    after="small-pages",
)
def a_shadowed_table_forbids_the_large_page(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """The frames around a table that became shadowed are mapped by small entries from then on."""
    if [spte.level for _, spte in leaves(before, 0x400)] != [2]:
        yield "there was no large page"
    if any(spte.level > 1 for _, spte in leaves(after, 0x400)) or not leaves(after, 0x402):
        yield "the large page is still there"


@story(
    "role.smm/valid-in-smm",
    scenario="smm",
    before="before",
    after="in-smm",
    mmus=ALL,
)
def smm_has_pages_of_its_own(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """What is mapped in SMM is mapped by pages with role.smm; outside of it there is none."""
    if any(page.role.smm for page in before.pages):
        yield "there are pages for SMM already"
    if not any(page.role.smm for page in after.pages) or not after.vcpus[0].smm:
        yield "there is no page for SMM"
