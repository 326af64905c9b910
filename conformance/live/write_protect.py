"""What stands for the guest's CR0.WP = 0 where the processor has WP set: entries that go with who used them last."""

from __future__ import annotations

from collections.abc import Iterator

from mmu_model.scenario.registers import CR0_WP, CR4_SMAP, CR4_SMEP, EFER_NX
from mmu_model.snapshot import Recording, Snapshot

from .account import account, at, other_result, page_faults, same_as
from .story import leaves, story

PAGE = 0x40000000  # of frame 0x200: read-only, for the user
W, U, X = 2, 4, 1


def _access(snapshot: Snapshot) -> list[int]:
    """W, U and X of the leaves of the page."""
    return [spte.writable * W | spte.user * U | spte.executable * X for _, spte in leaves(snapshot, 0x200)]


@story(
    "emulating-cr0.wp/host-keeps-wp/host-wp-is-1",
    scenario="cr0-wp-clear",
    before="fetched-by-the-user",
    after="written-again",
)
def the_kernels_write_faults_to_kvm(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """The guest has CR0.WP = 0, and its kernel writes by an entry without W: if the processor had WP = 0 too, it would
    do so with the entry as it is. The entry has W now, and no U: KVM was asked."""
    if any(state.vcpus[0].cr0 & CR0_WP for state in (before, after)):
        yield "the guest has CR0.WP = 1"
    if _access(before) != [U | X] or _access(after) != [W | X]:
        yield f"the entries are {_access(before)} and {_access(after)}"


@account(
    "emulating-cr0.wp/user-write/page-fault",
    scenario="cr0-wp-clear-then-smep",
    falsify=other_result(0, vector=13),
)
def a_users_write_faults_after_the_kernels(recording: Recording) -> Iterator[str]:
    """The kernel has written, so that the entry has W and no U; the user's write faults in the guest, and the entry
    stays. (Error code: P, W and U, as of the guest's entry.)"""
    if page_faults(recording)[:1] != [(1 | 2 | 4, PAGE)]:
        yield f"the faults are {page_faults(recording)}"
    for name in ("written-by-the-supervisor", "refused-to-the-user"):
        if _access(at(recording, name)) != [W | X]:
            yield f"{name}: the entries are {_access(at(recording, name))}"


@account(
    "emulating-cr0.wp/user-write/page-fault",
    scenario="cr0-wp-clear",
    falsify=other_result(1, error_code=1 | 4),
)
def a_users_write_faults_after_the_users_read(recording: Recording) -> Iterator[str]:
    """The same in the other state: the user has read, and the entry has U and no W."""
    if _access(at(recording, "read-by-the-user")) != [U | X]:
        yield "the entry is in the other state"
    if page_faults(recording)[:1] != [(1 | 2 | 4, PAGE)]:
        yield f"the faults are {page_faults(recording)}"


@story(
    "emulating-cr0.wp/smep/efer.nx-forced",
    scenario="cr0-wp-clear-smep-nx-off",
    before="read-by-the-user",
    after="written-by-the-supervisor",
)
def nx_is_used_with_the_guests_nx_off(before: Snapshot, after: Snapshot) -> Iterator[str]:
    """The guest has EFER.NX = 0, where NX is a reserved bit. The kernel's entry has it all the same, and the guest reads
    the page by it after the write: the processor runs with EFER.NXE = 1."""
    if any(state.vcpus[0].efer & EFER_NX for state in (before, after)):
        yield "the guest has EFER.NX = 1"
    if _access(before) != [U | X] or _access(after) != [W]:
        yield f"the entries are {_access(before)} and {_access(after)}"


@account(
    "emulating-cr0.wp/roles/smep-issue",
    scenario="cr0-wp-clear-then-smep",
    falsify=same_as("smep-set", "refused-to-the-user"),
)
def smep_comes_after_the_kernels_write(recording: Recording) -> Iterator[str]:
    """The kernel's entry has X; CR4.SMEP is set, and the kernel's fetch of the user's page faults: the pages loaded are
    others, with role.smep_andnot_wp, and have no such entry. The first ones stay."""
    if page_faults(recording)[1:] != [(1 | 16, PAGE + 0x800)]:
        yield f"the faults are {page_faults(recording)}"
    yield from _other_pages(at(recording, "smep-set"), CR4_SMEP, "smep_andnot_wp")


@account(
    "emulating-cr0.wp/smap/not-reused-with-smap",
    "emulating-cr0.wp/smap/in-the-role",
    scenario="cr0-wp-clear-then-smap",
    falsify=same_as("smap-set", "refused-to-the-user"),
)
def smap_comes_after_the_kernels_write(recording: Recording) -> Iterator[str]:
    """The same with CR4.SMAP, role.smap_andnot_wp and the kernel's read; at every level the pages are others."""
    if page_faults(recording)[1:] != [(1, PAGE)]:
        yield f"the faults are {page_faults(recording)}"
    yield from _other_pages(at(recording, "smap-set"), CR4_SMAP, "smap_andnot_wp")


def _other_pages(snapshot: Snapshot, bit: int, name: str) -> Iterator[str]:
    if not snapshot.vcpus[0].cr4 & bit or snapshot.vcpus[0].cr0 & CR0_WP:
        yield "CR4 or CR0 is another"
    root = snapshot.vcpus[0].root_mmu.root.page
    below = {page.role.level for page in snapshot.pages if getattr(page.role, name)}
    if root is None or not getattr(snapshot.by_id()[root].role, name) or below != {1, 2, 3, 4}:
        yield f"no pages with {name} are loaded, at levels {below}"
    holders = {getattr(page.role, name): spte for page, spte in leaves(snapshot, 0x200)}
    if set(holders) != {0} or holders[0].user or not holders[0].writable:
        yield f"the page is mapped by {holders}"


@account(
    "emulating-cr0.wp/smap/smap-on-is-no-case",
    scenario="cr0-wp-clear-smap",
    falsify=same_as("written-by-the-supervisor", "read-by-the-user"),
)
def with_smap_the_kernels_write_makes_no_entry(recording: Recording) -> Iterator[str]:
    """CR4.SMAP is set from the start: the kernel's write to the user's page faults in the guest (P and W: it is the walk of
    its tables that denies it), and there is no leaf for the frame."""
    first = recording.results[0]
    if (first.vector, first.error_code, first.cr2) != (14, 1 | 2, PAGE):
        yield f"the write gave {first}"
    if _access(at(recording, "written-by-the-supervisor")):
        yield "the page is mapped"
