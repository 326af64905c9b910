"""``role``: what each of its fields says, wherever it is set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mmu_model.scenario.registers import CR0_PG, CR0_WP, CR4_SMAP, CR4_SMEP
from mmu_model.snapshot import Gfn, Kind, MmuKind, Snapshot, Spte

from .predicate import (
    children,
    corrupt_page,
    leaf_gfn,
    loaded,
    predicate,
    title,
    with_entry,
    with_page,
    with_role,
)


def _child_one_level_up(snapshot: Snapshot) -> Snapshot | None:
    for _, _, child in children(snapshot):
        if child is not None:
            return with_page(snapshot, with_role(child, level=child.role.level + 1))
    return None


@predicate(
    "role.level/level-in-the-hierarchy",
    "shadow-pages/nonleaf/points-at-shadow-pages",
    "spt/nonleaf-is-pa-of-spt",
    corrupt=_child_one_level_up,
)
def each_level_points_at_the_next(snapshot: Snapshot) -> Iterator[str]:
    """A non-leaf entry holds the address of the spt of a page one level below."""
    for page, index, child in children(snapshot):
        if child is None:
            yield f"{title(page)} spt[{index}] points at no shadow page"
        elif child.role.level != page.role.level - 1:
            yield f"{title(page)} spt[{index}] points at {title(child)}"


@predicate(
    "shadow-pages/structure/contains-512-sptes",
    corrupt=corrupt_page(
        lambda page: bool(page.entries),
        lambda page: replace(page, entries=(*page.entries[:-1], replace(page.entries[-1], index=512))),
    ),
)
def no_more_than_512_entries(snapshot: Snapshot) -> Iterator[str]:
    """A page holds 512 sptes."""
    for page in snapshot.pages:
        for entry in page.entries:
            if entry.index not in range(512):
                yield f"{title(page)} has an entry {entry.index}"


def _direct_child_elsewhere(snapshot: Snapshot) -> Snapshot | None:
    for page, _, child in children(snapshot):
        if page.role.direct and child is not None:
            return with_page(snapshot, replace(child, gfn=Gfn(child.gfn + (1 << 9 * child.role.level))))
    return None


@predicate(
    "role.direct/set-linear-range",
    "role.direct/range-and-size",
    "gfn/table-or-base-frame",
    corrupt=_direct_child_elsewhere,
)
def direct_pages_map_a_linear_range(snapshot: Snapshot) -> Iterator[str]:
    """What hangs below entry i of a direct page begins at gfn + i * (reach of an entry)."""
    for page, index, child in children(snapshot):
        if not page.role.direct or child is None:
            continue
        expected = page.gfn + (index << 9 * (page.role.level - 1))
        if child.gfn != expected or not child.role.direct:
            yield f"{title(page)} spt[{index}] reaches {title(child)}, not gfn {expected:#x}"
    for page in snapshot.pages:
        if page.role.direct and page.gfn % (1 << 9 * page.role.level) and page.role.level < 4:
            yield f"{title(page)} does not begin at a multiple of its reach"


@predicate(
    "role.quadrant/first-level-halves",
    "role.quadrant/second-level-quarters",
    corrupt=corrupt_page(
        lambda page: bool(page.role.has_4_byte_gpte) and page.role.level == 1,
        lambda page: with_role(page, quadrant=page.role.quadrant + 2),
    ),
)
def quadrants_by_level(snapshot: Snapshot) -> Iterator[str]:
    """0 or 1 at level 1, 0 to 3 at level 2, and only for 4-byte gptes; the parent's index decides."""
    for page in snapshot.pages:
        most = {1: 1, 2: 3}.get(page.role.level, 0) if page.role.has_4_byte_gpte else 0
        if page.role.quadrant > most:
            yield f"{title(page)} has a quadrant above {most}"
    for page, index, child in children(snapshot):
        if child and child.role.has_4_byte_gpte and child.role.quadrant != index & 1:
            yield f"{title(page)} spt[{index}] points at {title(child)}"


def _swap_quarters(snapshot: Snapshot) -> Snapshot | None:
    for vcpu in snapshot.vcpus:
        for page in vcpu.root_mmu.pae_root:
            owner = snapshot.by_id().get(page) if page is not None else None
            if owner and owner.role.has_4_byte_gpte:
                return with_page(snapshot, with_role(owner, quadrant=owner.role.quadrant ^ 1))
    return None


@predicate("role.quadrant/maps-1gb", "role.quadrant/second-level-quarters", corrupt=_swap_quarters)
def the_quarter_is_the_gigabyte(snapshot: Snapshot) -> Iterator[str]:
    """Of the four roots of a 32-bit guest, root q has quadrant q: it maps gigabyte q."""
    pages = snapshot.by_id()
    for vcpu in snapshot.vcpus:
        for mmu in (vcpu.root_mmu, vcpu.guest_mmu):
            for gigabyte, page in enumerate(mmu.pae_root):
                owner = pages[page] if page is not None else None
                if owner and owner.role.has_4_byte_gpte and owner.role.quadrant != gigabyte:
                    yield f"root {gigabyte} is {title(owner)}"


def _parent_allows_less(snapshot: Snapshot) -> Snapshot | None:
    for page, _, child in children(snapshot):
        if child and child.role.access & 2 and page.role.access & 2:
            return with_page(snapshot, with_role(page, access=page.role.access & ~2))
    return None


@predicate("role.access/inherited-uwx", corrupt=_parent_allows_less)
def access_only_shrinks_downwards(snapshot: Snapshot) -> Iterator[str]:
    """What a page may allow is at most what the pages above it allow."""
    for page, index, child in children(snapshot):
        if child and child.role.access & ~page.role.access:
            yield f"{title(page)} spt[{index}] points at {title(child)}"


def _leaf_allows_more(snapshot: Snapshot) -> Snapshot | None:
    for page in snapshot.pages:
        for index, spte in page.sptes().items():
            if spte.kind is Kind.LEAF and spte.executable and page.role.cr0_wp:
                return with_page(snapshot, with_role(page, access=page.role.access & ~1))
            if spte.kind is Kind.LEAF and not page.role.access & 4:
                return with_page(snapshot, with_entry(page, index, Spte(spte.raw | 4, spte.level)))
    return None


@predicate("role.access/inherited-uwx", "role.access/execute-positive", corrupt=_leaf_allows_more)
def leaves_allow_no_more_than_the_role(snapshot: Snapshot) -> Iterator[str]:
    """W, U and X of a leaf are in role.access; but with cr0.wp=0 a kernel write may add W."""
    for page in snapshot.pages:
        for index, spte in page.sptes().items():
            if spte.kind is not Kind.LEAF:
                continue
            allowed = spte.executable * 1 | spte.writable * 2 | spte.user * 4
            excess = allowed & ~page.role.access & (7 if page.role.cr0_wp else 5)
            if excess:
                yield f"{title(page)} spt[{index}] is {spte}"


def _invalid_child(snapshot: Snapshot) -> Snapshot | None:
    for _, _, child in children(snapshot):
        if child is not None and child.id not in loaded(snapshot):
            return with_page(snapshot, with_role(child, invalid=1))
    return None


@predicate("role.invalid/pinned-root", corrupt=_invalid_child)
def invalid_pages_are_pinned_roots(snapshot: Snapshot) -> Iterator[str]:
    """What is invalid and still there is a root that a vCPU holds, current or previous."""
    held = set(loaded(snapshot))
    for page in snapshot.pages:
        if page.role.invalid and page.id not in held:
            yield f"{title(page)} is invalid, and no vCPU holds it"


@predicate(
    "role.smm/valid-in-smm",
    "role.smm/selects-memslots",
    corrupt=corrupt_page(
        lambda page: any(spte.kind is Kind.LEAF for spte in page.sptes().values()),
        lambda page: with_role(page, smm=page.role.smm ^ 1),
    ),
)
def smm_selects_the_memslots(snapshot: Snapshot) -> Iterator[str]:
    """Every leaf maps a frame of a memslot of the address space role.smm; children have their parent's."""
    slots = [(slot.as_id, slot.base_gfn, slot.base_gfn + slot.npages) for slot in snapshot.memslots]
    for page in snapshot.pages:
        for index, spte in page.sptes().items():
            if spte.kind is Kind.LEAF:
                gfn = leaf_gfn(page, index)
                if not any(space == page.role.smm and low <= gfn < high for space, low, high in slots):
                    yield f"{title(page)} spt[{index}] maps gfn {gfn:#x}, which is not in its address space"
    for page, index, child in children(snapshot):
        if child and child.role.smm != page.role.smm:
            yield f"{title(page)} spt[{index}] points at {title(child)}"


@predicate(
    "role.ad_disabled/cannot-use-ad-bits",
    corrupt=corrupt_page(
        lambda page: any(spte.kind is Kind.LEAF for spte in page.sptes().values()),
        lambda page: with_role(page, ad_disabled=page.role.ad_disabled ^ 1),
    ),
)
def leaves_say_whether_flags_are_used(snapshot: Snapshot) -> Iterator[str]:
    """Where role.ad_disabled is 1, KVM marks every leaf as one without flags; elsewhere none."""
    for page in snapshot.pages:
        for index, spte in page.sptes().items():
            if spte.kind is Kind.LEAF and (spte.ad_type == 1) != bool(page.role.ad_disabled):
                yield f"{title(page)} spt[{index}] has type {spte.ad_type} of accessed and dirty flags"


def _nested_root_of_the_hypervisor(snapshot: Snapshot) -> Snapshot | None:
    for vcpu in snapshot.vcpus:
        for page in (vcpu.guest_mmu.root.page, *vcpu.guest_mmu.pae_root):
            if page is not None:
                return with_page(snapshot, with_role(snapshot.by_id()[page], guest_mode=0))
    return None


@predicate("role.guest_mode/nested-guest", corrupt=_nested_root_of_the_hypervisor)
def nested_roots_are_in_guest_mode(snapshot: Snapshot) -> Iterator[str]:
    """The roots of guest_mmu, and all below them, were made for a nested guest."""
    pages = snapshot.by_id()
    for vcpu in snapshot.vcpus:
        for page in (vcpu.guest_mmu.root.page, *vcpu.guest_mmu.pae_root):
            if page is not None and not pages[page].role.guest_mode:
                yield f"{title(pages[page])} is a root of guest_mmu"
    for parent, index, child in children(snapshot):
        if child and child.role.guest_mode != parent.role.guest_mode:
            yield f"{title(parent)} spt[{index}] points at {title(child)}"


@predicate(
    "role.passthrough/first-entry-points-to-table",
    "role.passthrough/five-over-four-levels",
    corrupt=corrupt_page(
        lambda page: bool(page.role.passthrough) and bool(page.entries),
        lambda page: replace(page, entries=tuple(replace(entry, index=1) for entry in page.entries)),
    ),
)
def passthrough_pages_use_their_first_entry(snapshot: Snapshot) -> Iterator[str]:
    """A passthrough page is at level 5; its only entry, the first, leads to the page of the same gfn."""
    for page in snapshot.pages:
        if page.role.passthrough and (page.role.level != 5 or any(entry.index for entry in page.entries)):
            yield f"{title(page)} has entries {[entry.index for entry in page.entries]}"
    for page, _, child in children(snapshot):
        if child and page.role.passthrough and (child.gfn != page.gfn or child.role.passthrough):
            yield f"{title(page)} points at {title(child)}"


def _other_wp(snapshot: Snapshot) -> Snapshot | None:
    vcpu = snapshot.vcpus[0]
    root = vcpu.root_mmu.root.page
    if not _follows_the_guest(snapshot) or root is None:
        return None
    page = snapshot.by_id()[root]
    return None if page.role.invalid else with_page(snapshot, with_role(page, cr0_wp=page.role.cr0_wp ^ 1))


def _follows_the_guest(snapshot: Snapshot) -> bool:
    """Shadow paging of a guest that has paging on."""
    vcpu = snapshot.vcpus[0]
    return snapshot.mmu is MmuKind.SHADOW and bool(vcpu.cr0 & CR0_PG) and not vcpu.smm


@predicate(
    "role.cr0_wp/cr0.wp",
    "role.smep_andnot_wp/smep-and-not-wp",
    "role.smap_andnot_wp/smap-and-not-wp",
    corrupt=_other_wp,
)
def the_loaded_root_has_the_guests_bits(snapshot: Snapshot) -> Iterator[str]:
    """With shadow paging cr0_wp is CR0.WP; the other two are CR4's bit and not CR0.WP."""
    if not _follows_the_guest(snapshot):
        return
    vcpu, pages = snapshot.vcpus[0], snapshot.by_id()
    wp = int(bool(vcpu.cr0 & CR0_WP))
    smep, smap = (int(bool(vcpu.cr4 & bit)) & ~wp & 1 for bit in (CR4_SMEP, CR4_SMAP))
    for page in (vcpu.root_mmu.root.page, *vcpu.root_mmu.pae_root):
        if page is None or pages[page].role.invalid:
            continue
        role = pages[page].role
        if (role.cr0_wp, role.smep_andnot_wp, role.smap_andnot_wp) != (wp, smep, smap):
            yield f"{title(pages[page])} is loaded; WP {wp}, SMEP and not WP {smep}, SMAP and not WP {smap}"
