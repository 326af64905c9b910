"""`struct kvm_rmap_head`: a set of pointers to sptes in one word (mmu.c: pte_list_add and what follows it).

========  ======================================================================================
word      meaning
========  ======================================================================================
0         no spte
bit 0 = 0 the address of the only spte
bit 0 = 1 less that bit, the address of a descriptor of up to 14 sptes, which may lead to another
========  ======================================================================================

Only the first descriptor may have room left. A list that shrinks to one spte stays a descriptor.
"""

from collections.abc import Iterator
from typing import Final

from mmu_model.kvm.host import Host
from mmu_model.kvm.types import Kva, Sptep

KVM_RMAP_MANY: Final = 1
PTE_LIST_EXT: Final = 14


class RmapHead:
    """The word: `val`."""

    __slots__ = ("val",)

    def __init__(self) -> None:
        self.val = 0


class PteListDesc:
    """`struct pte_list_desc`: up to 14 sptes, and where there are more of them.

    Attributes
    ----------
    more :
        The next descriptor, or None (NULL).
    tail_count :
        How many sptes all descriptors behind this one hold.
    sptes :
        Those that it holds itself; `spte_count` is their number.

    """

    __slots__ = ("more", "sptes", "tail_count")

    def __init__(self, sptes: list[Sptep], more: Kva | None = None, tail_count: int = 0) -> None:
        self.sptes = sptes
        self.more = more
        self.tail_count = tail_count


def pte_list_add(host: Host, head: RmapHead, sptep: Sptep) -> int:
    """Add an spte; how many there were (of a single one: 0, for the kernel counts no further)."""
    if not head.val:
        head.val = sptep
        return 0
    if not head.val & KVM_RMAP_MANY:
        head.val = host.kmalloc(PteListDesc([Sptep(Kva(head.val)), sptep])) | KVM_RMAP_MANY
        return 1
    desc = _desc(host, head.val)
    count = desc.tail_count + len(desc.sptes)
    if len(desc.sptes) == PTE_LIST_EXT:
        desc = PteListDesc([], more=Kva(head.val & ~KVM_RMAP_MANY), tail_count=count)
        head.val = host.kmalloc(desc) | KVM_RMAP_MANY
    desc.sptes.append(sptep)
    return count


def pte_list_remove(host: Host, head: RmapHead, sptep: Sptep) -> None:
    """Remove an spte.

    Raises
    ------
    KeyError
        It is not there.

    """
    if not head.val & KVM_RMAP_MANY:
        if head.val != sptep:
            raise KeyError(f"spte {sptep:#x} is not in the list")
        head.val = 0
        return
    for desc in _descs(host, head.val):
        if sptep in desc.sptes:
            _fill_hole(host, head, desc, desc.sptes.index(sptep))
            return
    raise KeyError(f"spte {sptep:#x} is not in the list")


def _fill_hole(host: Host, head: RmapHead, desc: PteListDesc, hole: int) -> None:
    """The last spte of the first descriptor takes the place of the one that goes."""
    first = _desc(host, head.val)
    desc.sptes[hole] = first.sptes[-1]
    first.sptes.pop()
    if not first.sptes:
        host.kfree(Kva(head.val & ~KVM_RMAP_MANY))
        head.val = first.more | KVM_RMAP_MANY if first.more else 0


def pte_list_clear(host: Host, head: RmapHead) -> None:
    """Forget all sptes."""
    pointer = Kva(head.val & ~KVM_RMAP_MANY) if head.val & KVM_RMAP_MANY else None
    while pointer:
        desc: PteListDesc = host.at(pointer)
        host.kfree(pointer)
        pointer = desc.more
    head.val = 0


def pte_list_count(host: Host, head: RmapHead) -> int:
    """How many sptes there are."""
    if not head.val & KVM_RMAP_MANY:
        return int(head.val != 0)
    desc = _desc(host, head.val)
    return desc.tail_count + len(desc.sptes)


def pte_list(host: Host, head: RmapHead) -> list[Sptep]:
    """All sptes, in the order in which the kernel walks them; the head may change meanwhile."""
    if not head.val:
        return []
    if not head.val & KVM_RMAP_MANY:
        return [Sptep(Kva(head.val))]
    return [sptep for desc in _descs(host, head.val) for sptep in desc.sptes]


def _desc(host: Host, val: int) -> PteListDesc:
    desc: PteListDesc = host.at(val & ~KVM_RMAP_MANY)
    return desc


def _descs(host: Host, val: int) -> Iterator[PteListDesc]:
    desc: PteListDesc | None = _desc(host, val)
    while desc is not None:
        yield desc
        desc = host.at(desc.more) if desc.more else None
