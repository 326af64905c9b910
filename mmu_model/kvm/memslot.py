"""Memory slots: which guest frames have memory, and what KVM keeps for each slot."""

from collections.abc import Iterator
from typing import Final

from mmu_model.hardware.types import PAGE_SHIFT, Gfn, Pfn
from mmu_model.kvm.rmap import RmapHead
from mmu_model.kvm.types import KVM_MAX_HUGEPAGE_LEVEL, PG_LEVEL_2M, SPTE_LEVEL_BITS, Hva, pages_per_hpage

KVM_MEM_LOG_DIRTY_PAGES: Final = 1 << 0
KVM_MEM_READONLY: Final = 1 << 1
KVM_MEM_GUEST_MEMFD: Final = 1 << 2
KVM_MEMSLOT_INVALID: Final = 1 << 16

KVM_LPAGE_MIXED_FLAG: Final = 1 << 31
"""Beside a count of reasons against a large page: parts of it have private memory, and parts have not."""

KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS: Final = 1 << 63


def gfn_to_index(gfn: int, base_gfn: int, level: int) -> int:
    """Which element of a slot's arrays for that level belongs to a frame (kvm_host.h)."""
    shift = (level - 1) * SPTE_LEVEL_BITS
    return (gfn >> shift) - (base_gfn >> shift)


class KvmMemorySlot:
    """`struct kvm_memory_slot`, with its `arch` part.

    Attributes
    ----------
    rmap :
        By level - 1: by index the heads of the lists of sptes; absent is empty.
    disallow_lpage :
        By level - 2: by index how many reasons there are against a large page; absent is 0.
    gfn_write_track :
        By gfn how many shadowed tables demand that writes to it be seen; absent is 0.
    gmem :
        With KVM_MEM_GUEST_MEMFD, the frames of the private memory by place in the slot, as far as it was used.
    dirty_bitmap :
        The frames written since it was last fetched; None without KVM_MEM_LOG_DIRTY_PAGES.

    """

    def __init__(
        self, slot_id: int, base_gfn: Gfn, npages: int, userspace_addr: Hva, flags: int = 0, as_id: int = 0
    ) -> None:
        self.id = slot_id
        self.as_id = as_id
        self.base_gfn = base_gfn
        self.npages = npages
        self.userspace_addr = userspace_addr
        self.flags = flags
        self.rmap: tuple[dict[int, RmapHead], ...] = tuple({} for _ in range(KVM_MAX_HUGEPAGE_LEVEL))
        self.disallow_lpage: tuple[dict[int, int], ...] = ({}, {})
        self.gfn_write_track: dict[int, int] = {}
        self.gmem: dict[int, Pfn] | None = {} if flags & KVM_MEM_GUEST_MEMFD else None
        self.dirty_bitmap: set[Gfn] | None = set() if flags & KVM_MEM_LOG_DIRTY_PAGES else None
        for level in range(PG_LEVEL_2M, KVM_MAX_HUGEPAGE_LEVEL + 1):
            self.exclude_ragged_ends(level)

    @property
    def end_gfn(self) -> int:
        """The first frame behind the slot."""
        return self.base_gfn + self.npages

    def hva(self, gfn: int) -> Hva:
        """Where the process has the frame (kvm_host.h: __gfn_to_hva_memslot)."""
        return Hva(self.userspace_addr + (gfn - self.base_gfn << PAGE_SHIFT))

    def byte_hva(self, gpa: int) -> Hva:
        """Where the process has a byte of the guest."""
        return Hva(self.userspace_addr + gpa - (self.base_gfn << PAGE_SHIFT))

    def exclude_ragged_ends(self, level: int) -> None:
        """x86.c: kvm_alloc_memslot_metadata: no large page that the slot holds only a part of, and none at
        all where guest and process are out of step."""
        size = pages_per_hpage(level)
        counts = self.disallow_lpage[level - 2]
        last = gfn_to_index(self.end_gfn - 1, self.base_gfn, level)
        if self.base_gfn & size - 1:
            counts[0] = 1
        if self.end_gfn & size - 1:
            counts[last] = 1
        if (self.base_gfn ^ self.userspace_addr >> PAGE_SHIFT) & size - 1:
            counts.update(dict.fromkeys(range(last + 1), 1))

    def largepage_disallowed(self, gfn: int, level: int) -> int:
        """`lpage_info[level - 2][...].disallow_lpage` of the large frame that holds `gfn`."""
        counts = self.disallow_lpage[level - 2]
        return counts.get(gfn_to_index(gfn, self.base_gfn, level), 0) if counts else 0

    def count_disallow_lpage(self, gfn: int, count: int) -> None:
        """Add `count` to the reasons against every large page that holds `gfn`.

        mmu.c: update_gfn_disallow_lpage_count.
        """
        for level in range(PG_LEVEL_2M, KVM_MAX_HUGEPAGE_LEVEL + 1):
            counts = self.disallow_lpage[level - 2]
            index = gfn_to_index(gfn, self.base_gfn, level)
            counts[index] = counts.get(index, 0) + count

    def gfn_to_rmap(self, gfn: int, level: int) -> RmapHead:
        """The head of the list of leaf sptes of that level that map `gfn` (mmu.c)."""
        heads = self.rmap[level - 1]
        index = gfn_to_index(gfn, self.base_gfn, level)
        head = heads.get(index)
        if head is None:
            head = heads[index] = RmapHead()
        return head


class KvmMemslots:
    """`struct kvm_memslots`: the slots of one address space, and the generation of the set."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self._slots: list[KvmMemorySlot] = []
        self._last: KvmMemorySlot | None = None

    def __iter__(self) -> Iterator[KvmMemorySlot]:
        return iter(self._slots)

    def find(self, gfn: int) -> KvmMemorySlot | None:
        """The slot that has the frame, invalid ones too (kvm_host.h: __gfn_to_memslot)."""
        last = self._last
        if last is not None and last.base_gfn <= gfn < last.base_gfn + last.npages:
            return last
        for slot in self._slots:
            if slot.base_gfn <= gfn < slot.base_gfn + slot.npages:
                self._last = slot
                return slot
        return None

    def by_id(self, slot_id: int) -> KvmMemorySlot | None:
        """The slot that the process knows by that number."""
        return next((slot for slot in self._slots if slot.id == slot_id), None)

    def replace(self, old: KvmMemorySlot | None, new: KvmMemorySlot | None) -> None:
        """Take `old` out, put `new` in; slots stay sorted by their frames."""
        slots = [slot for slot in self._slots if slot is not old]
        self._slots = sorted([*slots, *([new] if new else [])], key=lambda slot: slot.base_gfn)
        self._last = None
