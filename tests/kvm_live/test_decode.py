"""Decoding out of memory that the test lays out, in structures of the test's own BTF."""

import os
import struct
from collections.abc import Iterator

import pytest

from kvm_live.btf import Btf
from kvm_live.memory import KERNEL_TEXT, BadAddressError, Memory
from kvm_live.pages import CorruptError, PageDecoder
from kvm_live.structures import FIELDS, Structures
from mmu_model.snapshot import PageId, SpteAt
from mmu_model.snapshot.role import ROLE_BITS

from .btf_data import BtfData

DIRECT_MAP = 0xFFFF888000000000
VMEMMAP = 0xFFFFEA0000000000
SIZE = 8 << 20
PGD, PUD_LOW, PMD_LOW = 0x1000, 0x2000, 0x3000  # of the direct map's gigabyte and of the text
VMEMMAP_PUD, VMEMMAP_PMD = 0x4000, 0x5000
STRUCT_PAGES = 0x200000  # a large page with the struct pages
VARIABLES = 0x10000
SYMBOLS = {
    "init_top_pgt": KERNEL_TEXT + PGD,
    "page_offset_base": KERNEL_TEXT + VARIABLES,
    "vmemmap_base": KERNEL_TEXT + VARIABLES + 8,
}


def kernel_types() -> Btf:
    """Every structure of FIELDS, its members 16 bytes apart in the order of that table."""
    made = BtfData()
    u64, u32 = made.integer("u64", 8), made.integer("u32", 4)
    of = {
        "sptes": made.array(u64, 14),
        "memslots": made.array(u64, 2),
        "prev_roots": made.array(u64, 3),
        "id_hash": made.array(u64, 128),
        "rmap": made.array(u64, 3),
    }
    head = made.struct("list_head", 16, [("next", u64, 0), ("prev", u64, 64)])
    of["tdp_mmu_pages"] = head
    for name, words in FIELDS.items():
        inner: dict[str, list[tuple[str, int, int]]] = {"": []}
        offset = 0
        for word in words.split():
            path = word.partition("=")[2].split("|")[0] or word
            folder, _, member = path.rpartition(".")
            kind = of.get(member, u64)
            inner.setdefault(folder, []).append((member, kind, 8 * offset))
            offset += 128 if member in ("sptes", "unsync_child_bitmap") else 16
        members = inner.pop("")
        for folder, nested in inner.items():
            members.append((folder, made.struct("", offset, nested), 0))
        made.struct(name, offset, members)
    made.struct(
        "kvm_mmu_page_role", 4, [(n, u32, bit | width << 24) for n, bit, width in ROLE_BITS], bits=True
    )
    return Btf(made.data())


class World:
    """Physical memory with a direct map, the kernel's text and the struct pages mapped."""

    def __init__(self) -> None:
        self.file = os.memfd_create("test")
        os.ftruncate(self.file, SIZE)
        for at, entry in {
            PGD + 8 * 511: PUD_LOW | 3,
            PUD_LOW + 8 * 510: PMD_LOW | 3,
            PMD_LOW: 0x83,
            PGD + 8 * (VMEMMAP >> 39 & 511): VMEMMAP_PUD | 3,
            VMEMMAP_PUD: VMEMMAP_PMD | 3,
            VMEMMAP_PMD: STRUCT_PAGES | 0x83,
            VARIABLES: DIRECT_MAP,
            VARIABLES + 8: VMEMMAP,
        }.items():
            self.put(at, entry)
        self.memory = Memory(self.file, SYMBOLS, five_level=False)
        self.structures = Structures(kernel_types())
        self.decoder = PageDecoder(self.memory, self.structures)

    def put(self, at: int, value: int, size: int = 8) -> None:
        os.pwrite(self.file, value.to_bytes(size, "little"), at)

    def put_page(self, at: int, spt: int, **fields: int) -> PageId:
        """A struct kvm_mmu_page at a physical address, its table at ``spt``, in page->private as well."""
        for name, value in {"spt": DIRECT_MAP + spt, **fields}.items():
            self.put(at + self.structures.at("kvm_mmu_page", name), value)
        private = self.structures.at("page", "private")
        self.put(STRUCT_PAGES + (spt >> 12) * self.structures.size["page"] + private, DIRECT_MAP + at)
        return PageId(DIRECT_MAP + at)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.memory.close()
    os.close(made.file)


def test_addresses_are_translated_by_map_and_by_table(world: World) -> None:
    assert world.memory.translate(DIRECT_MAP + 0x12345) == 0x12345
    assert world.memory.translate(KERNEL_TEXT + 0x12345) == 0x12345
    assert world.memory.translate(VMEMMAP + 0x40) == STRUCT_PAGES + 0x40
    with pytest.raises(BadAddressError, match="virtual 0x40 not mapped"):
        world.memory.translate(0x40)
    with pytest.raises(BadAddressError, match="outside of RAM"):
        world.memory.physical(SIZE - 4, 8)


def test_a_list_is_followed_to_its_head(world: World) -> None:
    for at, following in ((0x20000, 0x20100), (0x20100, 0x20200), (0x20200, 0x20000)):
        world.put(at, DIRECT_MAP + following)

    assert list(world.memory.list_nodes(DIRECT_MAP + 0x20000)) == [DIRECT_MAP + 0x20100, DIRECT_MAP + 0x20200]
    assert list(world.memory.list_nodes(DIRECT_MAP + 0x30000)) == [], "never initialised"


def test_structures_are_those_of_the_kernel(world: World) -> None:
    assert world.structures.role_bits == ROLE_BITS
    assert world.structures.tdp_pages_listed
    assert not world.structures.hash_in_place
    assert (world.structures.address_spaces, world.structures.list_entries) == (2, 14)


def test_a_shadow_page_is_decoded(world: World) -> None:
    parent = world.put_page(0x21000, 0x40000, role=0x3702)
    page = world.put_page(
        0x22000,
        0x41000,
        role=0x3701,
        gfn=0x45,
        unsync=1,
        root_count=0,
        write_flooding_count=2,
        shadowed_translation=DIRECT_MAP + 0x50000,
        parent_ptes=DIRECT_MAP + 0x40000 + 8 * 9,
        unsync_child_bitmap=1 << 5,
        unsync_children=1,
    )
    world.put(0x41000 + 8 * 3, 0x555E67)
    world.put(0x50000 + 8 * 3, 0x208007)
    world.put(0x41000 + 8 * 4, 1 << 63)

    found = world.decoder.decode(page, "active")

    assert (found.role.level, found.gfn, found.spt, found.unsync) == (1, 0x45, 0x41, True)
    assert found.parent_ptes == (SpteAt(parent, 9),)
    assert (found.unsync_child_bitmap, found.write_flooding_count) == ((5,), 2)
    assert [(e.index, e.raw, e.shadowed_translation) for e in found.entries] == [(3, 0x555E67, 0x208007)]
    assert world.decoder.empty == {0, 1 << 63}, "both: no kernel has that"
    assert (found.mmu_valid_gen, found.tdp_mmu_scheduled_root_to_zap, found.ptep) == (0, None, None)


def test_a_tdp_page_shows_the_other_members_of_its_unions(world: World) -> None:
    parent = world.put_page(0x21000, 0x40000, role=0x3784, tdp_mmu_page=1, root_count=2)
    child = world.put_page(
        0x22000, 0x41000, role=0x3783, tdp_mmu_page=1, parent_ptes=DIRECT_MAP + 0x40000 + 8
    )
    world.put(0x40000 + 8, 0x41827)

    root = world.decoder.decode(parent, "roots")
    assert (root.tdp_mmu_root_count, root.root_count, root.parent_ptes, root.ptep) == (2, None, None, None)
    assert list(world.decoder.children(root)) == [0x41000]
    assert world.decoder.decode(child, "table").ptep == SpteAt(parent, 1)


def put_descriptor(world: World, at: int, more: int, entries: list[int]) -> None:
    place = world.structures.at
    world.put(at + place("pte_list_desc", "more"), more)
    world.put(at + place("pte_list_desc", "spte_count"), len(entries))
    for i, entry in enumerate(entries):
        world.put(at + place("pte_list_desc", "sptes") + 8 * i, entry)


def test_a_list_of_parents_is_followed_through_its_descriptors(world: World) -> None:
    put_descriptor(world, 0x60000, DIRECT_MAP + 0x61000, [3, 2])
    put_descriptor(world, 0x61000, 0, list(range(10, 24)))

    assert list(world.decoder.pte_list(0)) == []
    assert list(world.decoder.pte_list(0x1230)) == [0x1230]
    assert list(world.decoder.pte_list(DIRECT_MAP + 0x60000 | 1)) == [3, 2, *range(10, 24)]


def test_a_descriptor_that_is_too_full_is_no_descriptor(world: World) -> None:
    put_descriptor(world, 0x60000, 0, list(range(15)))

    with pytest.raises(CorruptError, match="a pte_list_desc with 15 entries"):
        list(world.decoder.pte_list(DIRECT_MAP + 0x60000 | 1))


def test_five_levels_are_walked_where_the_host_has_them() -> None:
    world = World()
    os.pwrite(world.file, struct.pack("<Q", PGD | 3), 0x70000 + 8 * 511)
    symbols = {**SYMBOLS, "init_top_pgt": KERNEL_TEXT + 0x70000}

    memory = Memory(world.file, symbols, five_level=True)

    assert memory.direct_map == DIRECT_MAP
    assert memory.translate(KERNEL_TEXT + 0x12345) == 0x12345
