"""What the words in a snapshot say: roles, and sptes in the layout of paging (kvm_host.h, mmu/spte.h)."""

import pytest

from mmu_model.snapshot import Kind, Role, Spte

ROLE = {
    **dict.fromkeys(range(4), "level"),
    4: "has_4_byte_gpte",
    **dict.fromkeys((5, 6), "quadrant"),
    7: "direct",
    **dict.fromkeys((8, 9, 10), "access"),
    11: "invalid",
    12: "efer_nx",
    13: "cr0_wp",
    14: "smep_andnot_wp",
    15: "smap_andnot_wp",
    16: "ad_disabled",
    17: "guest_mode",
    18: "passthrough",
    **dict.fromkeys(range(24, 32), "smm"),
}
"""union kvm_mmu_page_role, bit by bit; 19 to 23 are padding."""


def test_a_role_word_and_its_fields_are_the_same_thing() -> None:
    role = Role(level=2, has_4_byte_gpte=1, quadrant=3, access=5, efer_nx=1, cr0_wp=1, smm=1)

    assert role.word == 0x01003572
    assert Role.from_word(role.word) == role
    assert str(role) == "level=2 has_4_byte_gpte=1 quadrant=3 access=5 efer_nx=1 cr0_wp=1 smm=1"
    assert str(Role(0)) == "level=0"


@pytest.mark.parametrize("bit", range(32))
def test_each_bit_of_a_role_has_its_place(bit: int) -> None:
    """One at a time: it is in one field, which has it where the field begins, and padding is in none."""
    role = Role.from_word(1 << bit)
    said = [name for name in role.__slots__ if getattr(role, name)]

    assert said == ([ROLE[bit]] if bit in ROLE else [])
    assert role.word == (1 << bit if bit in ROLE else 0)
    if bit in ROLE:
        first = min(other for other, name in ROLE.items() if name == ROLE[bit])
        assert getattr(role, ROLE[bit]) == 1 << bit - first


@pytest.mark.parametrize("name", dict.fromkeys(ROLE.values()))
def test_a_role_field_that_does_not_fit_is_named(name: str) -> None:
    width = list(ROLE.values()).count(name)
    most = (1 << width) - 1

    assert getattr(Role.from_word(Role(**{"level": 1, name: most}).word), name) == most
    with pytest.raises(ValueError, match=rf"role\.{name} is {most + 1}, more than {width} bits hold"):
        assert Role(**{"level": 1, name: most + 1}).word


@pytest.mark.parametrize(
    ("word", "level", "kind"),
    [
        (0, 1, Kind.EMPTY),
        (1 << 63, 4, Kind.EMPTY),
        (0x1000_0E67, 1, Kind.LEAF),
        (0x1000_0EE7, 2, Kind.LEAF),
        (0x1000_0827, 2, Kind.TABLE),
        (0x1000_0827, 1, Kind.LEAF),  # at the lowest level nothing leads further
        (0x800, 4, Kind.TABLE),
        (1 << 51 | 0xD0000007 | 5 << 3, 1, Kind.MMIO),
        (0x5A0, 3, Kind.FROZEN),
        (1 << 63 | 0x5A0, 3, Kind.FROZEN),
        (0x40, 1, Kind.OTHER),
        (0xD0000007, 1, Kind.OTHER),  # an MMIO entry has bit 51 as well as bit 0
        (1 << 51 | 0xD0000006, 1, Kind.OTHER),
        (1 << 51 | 0x5A0, 1, Kind.OTHER),
    ],
)
def test_the_kind_of_an_entry(word: int, level: int, kind: Kind) -> None:
    assert Spte(word, level).kind is kind


def test_each_bit_of_an_entry_has_its_place() -> None:
    """One at a time. Whatever is present can be read, and fetched from unless bit 63 says no."""
    names = ("readable", "writable", "user", "accessed", "dirty", "host_writable", "mmu_writable")
    places = dict(zip((0, 1, 2, 5, 6, 9, 10), names, strict=True))

    for bit in (*range(12), *range(52, 64)):
        spte = Spte(1 << bit, 1)
        assert [name for name in names if getattr(spte, name)] == ([places[bit]] if bit in places else []), (
            bit
        )
        assert spte.executable is (bit != 63)

    assert [Spte(n << 52, 1).ad_type for n in range(8)] == [0, 1, 2, 3, 0, 1, 2, 3]


def test_the_frame_has_40_bits_from_bit_12_on() -> None:
    spte = Spte((1 << 64) - 1, 1)

    assert spte.pfn == (1 << 40) - 1
    assert spte.with_pfn(5).raw == 0xFFF0_0000_0000_5FFF
    assert spte.with_pfn(5).level == 1
    assert Spte(0, 1).pfn == 0


def test_an_mmio_entry_carries_frame_and_generation() -> None:
    spte = Spte(1 << 51 | 0xD0001 << 12 | (0x345 >> 8) << 52 | 0x45 << 3 | 7, 1)

    assert spte.mmio_gfn == 0xD0001
    assert spte.mmio_generation == 0x345
    assert str(spte) == f"{spte.raw:#018x} mmio gfn 0xd0001 wu generation 837"


def test_the_generation_is_in_bits_3_to_10_and_52_to_62() -> None:
    """19 bits: MMIO_SPTE_GEN_LOW and MMIO_SPTE_GEN_HIGH."""
    low, high = 0xFF << 3, 0x7FF << 52

    assert Spte(low, 1).mmio_generation == 0xFF
    assert Spte(high, 1).mmio_generation == 0x7FF00
    assert Spte(~(low | high) & (1 << 64) - 1, 1).mmio_generation == 0
    assert Spte((1 << 64) - 1, 1).mmio_gfn == (1 << 39) - 1


@pytest.mark.parametrize(
    ("word", "level", "words"),
    [
        (0x8000_0000_0010_7E63, 1, "leaf pfn 0x107 rw-- AD host mmu"),
        (0x0010_7807, 3, "table pfn 0x107 rwxu --"),
        (0x0020_0A85, 2, "leaf pfn 0x200 r-xu -- host"),
        (0x0020_0CC5, 2, "leaf pfn 0x200 r-xu -D mmu"),
        (0x0010_7E27, 2, "table pfn 0x107 rwxu A-"),
        (0, 1, "empty"),
        (0x5A0, 1, "frozen"),
        (1 << 51 | 0xD000_0001, 1, "mmio gfn 0xd0000 -- generation 0"),
    ],
)
def test_an_entry_in_words(word: int, level: int, words: str) -> None:
    assert str(Spte(word, level)) == f"{word:#018x} {words}"


def test_under_paging_no_entry_hides_rights_elsewhere() -> None:
    """Only EPT has entries that may not be read; what is in bits 52 and up there is something else here."""
    word = 1 << 52 | 7 << 54 | 0x800

    assert Spte(word, 1).restored.raw == word
