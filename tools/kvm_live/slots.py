"""Decodes memslots, with what hangs from them: dirty bitmap, reverse maps, lpage_info, write tracking."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from mmu_model.snapshot import Gfn, Memslot, ReverseMap, Word

from .memory import Memory
from .pages import PageDecoder
from .structures import Structures


class SlotDecoder:
    """Reads the memslots of one VM; ``base`` is the host-virtual address of the memory behind it."""

    def __init__(self, memory: Memory, structures: Structures, pages: PageDecoder, base: int) -> None:
        self.memory, self.structures, self.pages, self.base = memory, structures, pages, base

    def decode(self, kvm: int) -> tuple[tuple[Word, ...], tuple[Memslot, ...]]:
        """Generations by address space, and all slots by address space and number."""
        count = self.structures.address_spaces
        spaces = self.memory.words(kvm + self.structures.at("kvm", "memslots"), count)
        generations = tuple(self._number(slots, "kvm_memslots", "generation", 8) for slots in spaces)
        found = [self._slot(slot) for slots in spaces for slot in self._addresses(slots)]
        found.sort(key=lambda slot: (slot.as_id, slot.id))
        return tuple(Word(generation) for generation in generations), tuple(found)

    def _number(self, address: int, struct_name: str, name: str, size: int) -> int:
        return self.memory.unsigned(address + self.structures.at(struct_name, name), size)

    def _addresses(self, slots: int) -> Iterator[int]:
        """The slots in the hash by number; each has a node for either of the two sets of memslots."""
        node = self._number(slots, "kvm_memslots", "node_idx", 4)
        in_slot = self.structures.at("kvm_memory_slot", "id_node") + 16 * node
        buckets = slots + self.structures.at("kvm_memslots", "id_hash")
        for link in self.memory.words(buckets, self.structures.id_buckets):
            while link:
                yield link - in_slot
                link = self.memory.u64(link)

    def _slot(self, slot: int) -> Memslot:
        def get(name: str, size: int) -> int:
            return self._number(slot, "kvm_memory_slot", name, size)

        base_gfn, npages = get("base_gfn", 8), get("npages", 8)
        return Memslot(
            as_id=get("as_id", 2),
            id=get("id", 2),
            base_gfn=Gfn(base_gfn),
            npages=npages,
            flags=get("flags", 4),
            backing=(get("userspace_addr", 8) - self.base) >> 12,
            dirty=self._dirty(get("dirty_bitmap", 8), base_gfn, npages),
            disallow_lpage=tuple(self._disallow_lpage(slot, base_gfn, npages)),
            gfn_write_track=tuple(self._write_track(get("gfn_write_track", 8), base_gfn, npages)),
            rmap=tuple(self._rmap(slot, base_gfn, npages)),
        )

    def _dirty(self, bitmap: int, base_gfn: int, npages: int) -> tuple[Gfn, ...] | None:
        if not bitmap:
            return None
        bits = self.memory.unsigned(bitmap, (npages + 7) // 8)
        return tuple(Gfn(base_gfn + i) for i in range(npages) if bits >> i & 1)

    def _disallow_lpage(self, slot: int, base_gfn: int, npages: int) -> Iterator[tuple[int, int, int]]:
        arrays = self.memory.words(
            slot + self.structures.at("kvm_memory_slot", "lpage_info"), self.structures.page_sizes - 1
        )
        for level, array in enumerate(arrays, start=2):
            if array:
                count = _pages_at(level, base_gfn, npages)
                values = struct.unpack(f"<{count}i", self.memory.read(array, 4 * count))
                yield from ((level, i, value) for i, value in enumerate(values) if value)

    def _write_track(self, array: int, base_gfn: int, npages: int) -> Iterator[tuple[Gfn, int]]:
        if array:
            counts = struct.unpack(f"<{npages}H", self.memory.read(array, 2 * npages))
            yield from ((Gfn(base_gfn + i), count) for i, count in enumerate(counts) if count)

    def _rmap(self, slot: int, base_gfn: int, npages: int) -> Iterator[ReverseMap]:
        arrays = self.memory.words(
            slot + self.structures.at("kvm_memory_slot", "rmap"), self.structures.page_sizes
        )
        for level, array in enumerate(arrays, start=1):
            if not array:
                continue
            heads = self.memory.words(array, _pages_at(level, base_gfn, npages))
            first = base_gfn >> 9 * (level - 1)
            for i, head in enumerate(heads):
                if head:
                    sptes = tuple(self.pages.place(entry) for entry in self.pages.pte_list(head))
                    yield ReverseMap(Gfn(first + i << 9 * (level - 1)), level, sptes)


def _pages_at(level: int, base_gfn: int, npages: int) -> int:
    """How many pages of a level a slot reaches into (__kvm_mmu_slot_lpages)."""
    shift = 9 * (level - 1)
    return (base_gfn + npages - 1 >> shift) - (base_gfn >> shift) + 1
