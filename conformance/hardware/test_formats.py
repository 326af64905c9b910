"""The tables of entry formats against themselves and against masks known from the manuals."""

import pytest

from mmu_model.hardware.formats import FORMATS, fields, mask


@pytest.mark.parametrize("maxphyaddr", [32, 36, 40, 46, 51, 52])
@pytest.mark.parametrize("name", FORMATS)
def test_every_bit_stands_in_one_field(name: str, maxphyaddr: int) -> None:
    bits = 32 if name.startswith("32-bit") else 64
    assert sum(field.mask for field in fields(name, maxphyaddr)) == (1 << bits) - 1
    assert sum(field.high - field.low + 1 for field in fields(name, maxphyaddr)) == bits


@pytest.mark.parametrize(
    ("name", "label", "maxphyaddr", "expected"),
    [
        ("PTE", "reserved", 40, 0x000F_FF00_0000_0000),
        ("PTE", "reserved", 52, 0),
        ("PTE", "address", 40, 0x0000_00FF_FFFF_F000),
        ("PML4E", "reserved", 40, 0x000F_FF00_0000_0080),
        ("PDE, 2-MByte page", "reserved", 46, 0x000F_C000_001F_E000),
        ("PDPTE, 1-GByte page", "reserved", 46, 0x000F_C000_3FFF_E000),
        ("PAE PDPTE", "reserved", 36, 0xFFFF_FFF0_0000_01E6),
        ("PAE PTE", "reserved", 36, 0x7FFF_FFF0_0000_0000),
        ("32-bit PDE, 4-MByte page", "reserved", 36, 0x003E_0000),
        ("32-bit PDE, 4-MByte page", "high", 36, 0x0001_E000),
        ("32-bit PDE, 4-MByte page", "reserved", 32, 0x003F_E000),
        ("32-bit PDE, 4-MByte page", "reserved", 52, 0x0020_0000),
        ("EPT PDE, 2-MByte page", "reserved", 46, 0x000F_C000_001F_F000),
        ("EPT PML4E", "reserved", 46, 0x000F_C000_0000_00F8),
    ],
)
def test_masks_of_the_manual(name: str, label: str, maxphyaddr: int, expected: int) -> None:
    assert mask(name, label, maxphyaddr) == expected
