"""Which translation the leaves encode: what the guest's tables say of an address is what KVM's leaf for it says.

That a leaf for a guest frame has the frame that the host has behind it, kvm_live.checks demanded of each snapshot
when it was recorded; ``frames`` asks it again as far as frames that were renamed can tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mmu_model.scenario.registers import CR0_PG
from mmu_model.snapshot import Gfn, MmuKind, Snapshot

from .guest import Memory
from .predicate import leaf_gfn, predicate, title, with_page, with_role
from .reading import Tree, leaves_below, reading, translate_elsewhere, trees, under_nested_paging


def _lowest_elsewhere(snapshot: Snapshot) -> Snapshot | None:
    for tree in trees(snapshot):
        if not tree.shadows:
            for leaf in leaves_below(snapshot, tree):
                moved = replace(leaf.page, gfn=Gfn(leaf.page.gfn + (1 << 9 * leaf.page.role.level)))
                return with_page(snapshot, moved)
    return None


def _of_direct_trees(snapshot: Snapshot) -> Iterator[str]:
    for tree in trees(snapshot):
        if tree.shadows:
            continue
        for leaf in leaves_below(snapshot, tree):
            if leaf_gfn(leaf.page, leaf.index) != leaf.address >> 12:
                yield f"{title(leaf.page)} is reached at {leaf.address:#x} and maps another frame"


@predicate(
    "translation/guest-paging-off/gpa-to-hpa",
    "shadow-pages/nonpaging/gpa-to-hpa",
    corrupt=lambda snapshot: None if _paging(snapshot) else _lowest_elsewhere(snapshot),
)
def without_guest_paging_an_address_is_guest_physical(snapshot: Snapshot) -> Iterator[str]:
    """While CR0.PG is 0, as in real mode, the leaf for address A has guest frame A >> 12."""
    if not _paging(snapshot):
        yield from _of_direct_trees(snapshot)


@predicate(
    "shadow-pages/paging-tdp/gpa-to-hpa",
    "shadow-pages/leaf/lowest-level-of-the-stack",
    "shadow-pages/leaf/encodes-one-or-two-translations",
    "acronyms/gpa/meaning",
    corrupt=lambda snapshot: _lowest_elsewhere(snapshot) if _tdp_and_paging(snapshot) else None,
)
def under_nested_paging_an_address_is_guest_physical(snapshot: Snapshot) -> Iterator[str]:
    """With nested paging the leaf for A has guest frame A >> 12, whatever tables the guest has."""
    if _tdp_and_paging(snapshot):
        yield from _of_direct_trees(snapshot)


def _paging(snapshot: Snapshot) -> bool:
    vcpu = snapshot.vcpus[0]
    return bool(vcpu.cr0 & CR0_PG) and not vcpu.smm


def _tdp_and_paging(snapshot: Snapshot) -> bool:
    return under_nested_paging(snapshot) and _paging(snapshot)


def _by_the_guests_tables(snapshot: Snapshot, tree: Tree, memory: Memory) -> Iterator[str]:
    for leaf in leaves_below(snapshot, tree):
        if leaf.page.unsync:
            continue
        reach = memory.walk(tree.pgd, leaf.address)
        if reach is None:
            yield f"{title(leaf.page)} maps {leaf.address:#x}, the guest's tables do not"
        elif reach.of(leaf.address) >> 12 != leaf_gfn(leaf.page, leaf.index):
            expected = reach.of(leaf.address) >> 12
            yield f"{title(leaf.page)} spt[{leaf.index}] is reached at {leaf.address:#x}, not gfn {expected:#x}"


def _shadow_paging(snapshot: Snapshot, tree: Tree) -> bool:
    return snapshot.mmu is MmuKind.SHADOW and tree.shadows and not tree.top.role.guest_mode


def _nested_without_npt(snapshot: Snapshot, tree: Tree) -> bool:
    return snapshot.mmu is MmuKind.SHADOW and tree.shadows and bool(tree.top.role.guest_mode)


def _nested_npt(_: Snapshot, tree: Tree) -> bool:
    return tree.nested


@reading(
    "translation/guest-paging-on/gva-to-gpa-to-hpa",
    "translation/direct-or-shadow/encode-one-to-three",
    "shadow-pages/paging/gva-to-gpa-to-hpa",
    "shadow-pages/leaf/encodes-one-or-two-translations",
    "spt/pageful-of-sptes",
    "acronyms/gva/meaning",
    "acronyms/gfn/meaning",
    corrupt=translate_elsewhere(_shadow_paging),
)
def with_shadow_paging_an_address_is_linear(snapshot: Snapshot, memory: Memory) -> Iterator[str]:
    """The leaf for a linear address has the guest frame to which the guest's tables lead that address."""
    for tree in trees(snapshot):
        if _shadow_paging(snapshot, tree):
            yield from _by_the_guests_tables(snapshot, tree, memory)


@reading(
    "shadow-pages/nested-non-tdp/ngva-to-gpa-to-hpa",
    "shadow-pages/nested-non-tdp-footnote/guest-hypervisor-encodes-ngva-to-gpa",
    "acronyms/ngva/meaning",
    corrupt=translate_elsewhere(_nested_without_npt),
)
def without_nested_paging_a_nested_address_is_linear(snapshot: Snapshot, memory: Memory) -> Iterator[str]:
    """The leaf for a linear address of the nested guest has the frame of the hypervisor's memory to which the tables
    lead it that the hypervisor made for that guest."""
    for tree in trees(snapshot):
        if _nested_without_npt(snapshot, tree):
            yield from _by_the_guests_tables(snapshot, tree, memory)


@reading(
    "translation/nested/ngva-to-ngpa-to-gpa-to-hpa",
    "translation/direct-or-shadow/encode-one-to-three",
    "shadow-pages/nested-tdp/ngpa-to-gpa-to-hpa",
    "shadow-pages/leaf/encodes-one-or-two-translations",
    "acronyms/ngpa/meaning",
    corrupt=translate_elsewhere(_nested_npt),
)
def with_nested_npt_an_address_is_nested_guest_physical(snapshot: Snapshot, memory: Memory) -> Iterator[str]:
    """The leaf for a guest-physical address of the nested guest has the frame to which the hypervisor's nested
    tables lead it."""
    for tree in trees(snapshot):
        if _nested_npt(snapshot, tree):
            yield from _by_the_guests_tables(snapshot, tree, memory)


def _other_kind_of_root(snapshot: Snapshot) -> Snapshot | None:
    for tree in trees(snapshot):
        if tree.current:
            return with_page(snapshot, with_role(tree.top, direct=tree.top.role.direct ^ 1))
    return None


@predicate("translation/direct-or-shadow/direct-when-they-match", corrupt=_other_kind_of_root)
def tables_are_shadowed_where_the_processor_does_not_walk_them(snapshot: Snapshot) -> Iterator[str]:
    """Under nested paging the roots loaded are direct, but for those of a nested guest; without, those for a guest that
    has paging off."""
    for tree in trees(snapshot):
        wanted = tree.nested if under_nested_paging(snapshot) else _paging(snapshot)
        if tree.current and tree.shadows != wanted:
            yield f"{title(tree.top)} is loaded"
