"""Which registers can exist together, and the mode they select."""

import pytest

from mmu_model.hardware import (
    CR0_PE,
    CR0_PG,
    CR4_LA57,
    CR4_PAE,
    CR4_PCIDE,
    EFER_LMA,
    EFER_LME,
    GeneralProtection,
    Mode,
    Registers,
)

PG = CR0_PE | CR0_PG


@pytest.mark.parametrize(
    ("cr0", "cr4", "efer", "mode"),
    [
        (CR0_PE, CR4_PAE, 0, Mode.OFF),
        (CR0_PE, CR4_PAE, EFER_LME, Mode.OFF),
        (PG, 0, 0, Mode.THIRTY_TWO_BIT),
        (PG, CR4_PAE, 0, Mode.PAE),
        (PG, CR4_PAE | CR4_LA57, 0, Mode.PAE),
        (PG, CR4_PAE, EFER_LME | EFER_LMA, Mode.FOUR_LEVEL),
        (PG, CR4_PAE | CR4_LA57, EFER_LMA, Mode.FIVE_LEVEL),
    ],
)
def test_the_mode_follows_from_the_registers(cr0: int, cr4: int, efer: int, mode: Mode) -> None:
    assert Registers(cr0=cr0, cr4=cr4, efer=efer).mode is mode


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"cr0": CR0_PG}, "CR0.PG without CR0.PE"),
        ({"cr0": CR0_PE | 1 << 29}, "CR0.NW without CR0.CD"),
        ({"cr0": CR0_PE, "cr4": CR4_PAE, "efer": EFER_LMA}, "EFER.LMA without CR0.PG"),
        ({"cr0": PG, "efer": EFER_LMA}, "EFER.LMA without CR4.PAE"),
        ({"cr0": PG, "cr4": CR4_PAE, "efer": EFER_LME}, "without EFER.LMA"),
        ({"cr0": PG, "cr4": CR4_PAE | CR4_PCIDE}, "CR4.PCIDE without EFER.LMA"),
        ({"cr0": PG, "cr4": CR4_PAE, "efer": EFER_LMA, "cr3": 1 << 46}, "CR3 has bits above 45"),
        ({"cr0": 1 << 32}, "CR0"),
        ({"pkru": 1 << 32}, "PKRU"),
        ({"pkrs": 1 << 32}, "PKRS"),
        ({"cr4": 1 << 64}, "CR4"),
        ({"efer": 1 << 64}, "EFER"),
    ],
)
def test_illegal_combinations_raise_general_protection(values: dict[str, int], reason: str) -> None:
    with pytest.raises(GeneralProtection, match=reason):
        Registers(maxphyaddr=46, **values)  # type: ignore[arg-type]


def test_the_pcid_is_zero_unless_enabled() -> None:
    long_mode = {"cr0": PG, "cr3": 0x1123, "efer": EFER_LMA}
    assert Registers(cr4=CR4_PAE, **long_mode).pcid == 0  # type: ignore[arg-type]
    assert Registers(cr4=CR4_PAE | CR4_PCIDE, **long_mode).pcid == 0x123  # type: ignore[arg-type]


def test_maxphyaddr_out_of_range() -> None:
    with pytest.raises(ValueError, match="MAXPHYADDR"):
        Registers(maxphyaddr=53)
