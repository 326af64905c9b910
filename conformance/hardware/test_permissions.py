"""Which accesses a translation permits: every rule of SDM vol. 3, 4.6 once."""

from collections.abc import Callable

import pytest

from conformance.hardware.machine import (
    PAGE,
    VA,
    Machine,
    error_code,
    mapped,
    table_levels,
)
from mmu_model.hardware import (
    CR0_WP,
    CR4_PKE,
    CR4_PKS,
    CR4_SMAP,
    CR4_SMEP,
    EFER_NXE,
    ERROR_ID,
    ERROR_P,
    ERROR_PK,
    ERROR_US,
    ERROR_WR,
    Access,
    Kind,
    LogicalProcessor,
    Mode,
    PageFault,
    Translation,
    access,
)

P, W, U = 1, 2, 4
READ, WRITE, FETCH = (access(kind) for kind in Kind)
USER_READ, USER_WRITE, USER_FETCH = (access(kind, user=True) for kind in Kind)
IMPLICIT_READ = access(Kind.READ, implicit=True)


def test_user_needs_u_at_every_level(machine: Machine) -> None:
    for level in table_levels(machine.mode):
        machine.tables.map(VA, 0x8000_0000)
        assert isinstance(machine.walk(VA, USER_READ), Translation)
        machine.clear_bits(VA, level, U)
        assert error_code(machine.walk(VA, USER_READ)) == ERROR_P | ERROR_US
        assert error_code(machine.walk(VA, USER_WRITE)) == ERROR_P | ERROR_US | ERROR_WR
        assert isinstance(machine.walk(VA, READ), Translation)
        machine.set_bits(VA, level, U)


def test_a_write_needs_w_at_every_level(machine: Machine) -> None:
    for level in table_levels(machine.mode):
        machine.tables.map(VA, 0x8000_0000)
        machine.clear_bits(VA, level, W)
        assert error_code(machine.walk(VA, USER_WRITE)) == ERROR_P | ERROR_WR | ERROR_US
        assert error_code(machine.walk(VA, WRITE)) == ERROR_P | ERROR_WR
        assert isinstance(machine.walk(VA, USER_READ), Translation)
        machine.set_bits(VA, level, W)


def test_without_wp_a_supervisor_writes_anywhere_a_user_does_not(machine: Machine) -> None:
    machine.tables.map(VA, 0x8000_0000, flags=P | U)
    assert isinstance(machine.walk(VA, WRITE, cr0=0), Translation)
    assert error_code(machine.walk(VA, USER_WRITE, cr0=0)) == ERROR_P | ERROR_WR | ERROR_US


def test_smep_forbids_a_supervisor_to_fetch_from_user_pages(machine: Machine) -> None:
    machine.tables.map(VA, 0x8000_0000)
    assert isinstance(machine.walk(VA, FETCH), Translation)
    assert error_code(machine.walk(VA, FETCH, cr4=CR4_SMEP)) == ERROR_P | ERROR_ID
    assert isinstance(machine.walk(VA, USER_FETCH, cr4=CR4_SMEP), Translation)
    machine.clear_bits(VA, 1, U)
    assert isinstance(machine.walk(VA, FETCH, cr4=CR4_SMEP), Translation)


def test_smap_forbids_a_supervisor_user_data_unless_ac(machine: Machine) -> None:
    machine.tables.map(VA, 0x8000_0000)
    assert error_code(machine.walk(VA, READ, cr4=CR4_SMAP)) == ERROR_P
    assert error_code(machine.walk(VA, WRITE, cr4=CR4_SMAP, cr0=0)) == ERROR_P | ERROR_WR
    assert isinstance(machine.walk(VA, WRITE, cr4=CR4_SMAP, ac=True), Translation)
    assert error_code(machine.walk(VA, IMPLICIT_READ, cr4=CR4_SMAP, ac=True)) == ERROR_P
    assert isinstance(machine.walk(VA, FETCH, cr4=CR4_SMAP), Translation)
    assert isinstance(machine.walk(VA, USER_READ, cr4=CR4_SMAP), Translation)


def test_ac_does_not_exempt_from_write_protection(machine: Machine) -> None:
    machine.tables.map(VA, 0x8000_0000, flags=P | U)
    assert error_code(machine.walk(VA, WRITE, cr4=CR4_SMAP, ac=True)) == ERROR_P | ERROR_WR
    assert isinstance(machine.walk(VA, WRITE, cr4=CR4_SMAP, ac=True, cr0=0), Translation)


@pytest.mark.parametrize(("nxe", "smep", "told"), [(0, 0, False), (0, 1, True), (1, 0, True), (1, 1, True)])
def test_a_fetch_is_told_with_nxe_or_smep(nxe: int, smep: int, told: bool) -> None:
    """SDM 4.7, I/D flag."""
    result = Machine(Mode.FOUR_LEVEL).walk(VA, FETCH, efer=nxe * EFER_NXE, cr4=smep * CR4_SMEP)
    assert error_code(result) == (ERROR_ID if told else 0)


def test_nxe_tells_no_fetch_in_32_bit_paging() -> None:
    assert error_code(Machine(Mode.THIRTY_TWO_BIT).walk(VA, FETCH, efer=EFER_NXE)) == 0


# Protection keys: SDM 4.6.2

KEY = 5
AD, WD = 1 << 2 * KEY, 2 << 2 * KEY


def keyed(flags: int = P | W | U, level: int = 1) -> Machine:
    machine = mapped(Mode.FOUR_LEVEL, level, flags)
    machine.set_bits(VA, level, KEY << 59)
    return machine


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize(
    ("how", "pkru", "cr0", "expected"),
    [
        (USER_READ, AD, CR0_WP, ERROR_P | ERROR_US | ERROR_PK),
        (READ, AD, CR0_WP, ERROR_P | ERROR_PK),
        (USER_WRITE, WD, 0, ERROR_P | ERROR_US | ERROR_WR | ERROR_PK),
        (WRITE, WD, CR0_WP, ERROR_P | ERROR_WR | ERROR_PK),
        (WRITE, WD, 0, None),
        (WRITE, AD, 0, ERROR_P | ERROR_WR | ERROR_PK),
        (USER_READ, WD, CR0_WP, None),
        (USER_FETCH, AD | WD, CR0_WP, None),
        (USER_READ, ~(AD | WD) & 0xFFFF_FFFF, CR0_WP, None),
    ],
)
def test_pkru_governs_data_at_user_addresses(
    level: int, how: Access, pkru: int, cr0: int, expected: int | None
) -> None:
    result = keyed(level=level).walk(VA, how, cr4=CR4_PKE, pkru=pkru, cr0=cr0)
    assert (error_code(result) if expected is not None else None) == expected
    assert isinstance(keyed(level=level).walk(VA, how, pkru=pkru, cr0=cr0), Translation), "without CR4.PKE"


def test_pkru_does_not_govern_supervisor_addresses_pkrs_does() -> None:
    machine = keyed(P | W)
    assert isinstance(machine.walk(VA, READ, cr4=CR4_PKE, pkru=AD), Translation)
    assert error_code(machine.walk(VA, READ, cr4=CR4_PKS, pkrs=AD)) == ERROR_P | ERROR_PK
    assert error_code(machine.walk(VA, WRITE, cr4=CR4_PKS, pkrs=WD)) == ERROR_P | ERROR_PK | ERROR_WR
    assert isinstance(machine.walk(VA, WRITE, cr4=CR4_PKS, pkrs=WD, cr0=0), Translation)
    assert isinstance(keyed().walk(VA, READ, cr4=CR4_PKS, pkrs=AD), Translation)


def test_pk_is_told_beside_another_reason() -> None:
    """SDM 4.7: the PK flag does not depend on whether the access was denied for another reason as well."""
    result = keyed(P | U).walk(VA, USER_WRITE, cr4=CR4_PKE, pkru=WD)
    assert error_code(result) == ERROR_P | ERROR_US | ERROR_WR | ERROR_PK
    assert error_code(keyed().walk(VA, READ, cr4=CR4_PKE | CR4_SMAP, pkru=AD)) == ERROR_P | ERROR_PK


def test_keys_are_only_of_long_mode() -> None:
    machine = mapped(Mode.PAE, 1)
    assert isinstance(machine.walk(VA, USER_READ, cr4=CR4_PKE, pkru=0xFFFF_FFFF), Translation)


@pytest.mark.parametrize(
    ("kind", "user"), [(Kind.FETCH, False), (Kind.FETCH, True), (Kind.READ, True), (Kind.WRITE, True)]
)
def test_what_the_processor_does_on_its_own_account(kind: Kind, user: bool) -> None:
    """It reads and writes system tables, as a supervisor whatever the CPL; it fetches nothing from them."""
    with pytest.raises(ValueError, match="implicit"):
        access(kind, user=user, implicit=True)


def test_implicit_accesses_are_the_supervisors() -> None:
    """All rules but that of EFLAGS.AC are those of explicit ones."""
    machine = mapped(Mode.FOUR_LEVEL, flags=P)
    implicit_write = access(Kind.WRITE, implicit=True)
    assert isinstance(machine.walk(VA, IMPLICIT_READ), Translation)
    assert error_code(machine.walk(VA, implicit_write)) == ERROR_P | ERROR_WR
    assert isinstance(machine.walk(VA, implicit_write, cr0=0), Translation)
    assert isinstance(machine.walk(VA, IMPLICIT_READ, cr4=CR4_SMAP), Translation)
    machine.set_bits(VA, 1, W)
    for level in (1, 2, 3, 4):
        machine.set_bits(VA, level, U)
    assert error_code(machine.walk(VA, implicit_write, cr4=CR4_SMAP, ac=True)) == ERROR_P | ERROR_WR


@pytest.mark.parametrize("cpl", range(4))
def test_only_ring_3_is_the_user(cpl: int) -> None:
    """SDM 4.6: accesses at CPL 0 to 2 are the supervisor's."""
    machine = mapped(Mode.FOUR_LEVEL, flags=P | W)
    cpu = LogicalProcessor(machine.memory, machine.registers())
    acts: list[tuple[Callable[[], object], int]] = [
        (lambda: cpu.read(VA, cpl=cpl), 0),
        (lambda: cpu.write(VA, 1, cpl=cpl), ERROR_WR),
        (lambda: cpu.fetch(VA, cpl=cpl), ERROR_ID),
    ]
    for act, bits in acts:
        if cpl < 3:
            act()
            continue
        with pytest.raises(PageFault) as fault:
            act()
        assert fault.value.error_code == ERROR_P | ERROR_US | bits


def test_ignored_bits_grant_nothing(machine: Machine) -> None:
    """Bits 11:9, and 58:52 of entries of 8 bytes in long mode."""
    ignored = 7 << 9 | (0x7F << 52 if machine.mode.is_long else 0)
    machine.tables.map(VA, PAGE, flags=P | ignored)
    assert error_code(machine.walk(VA, WRITE)) == ERROR_P | ERROR_WR
    assert error_code(machine.walk(VA, USER_READ)) == ERROR_P | ERROR_US
    if machine.mode is not Mode.THIRTY_TWO_BIT:
        machine.set_bits(VA, 1, 1 << 63)
        assert error_code(machine.walk(VA, FETCH)) == ERROR_P | ERROR_ID


def test_controls_are_the_bits_of_the_manual() -> None:
    """CR0.WP is bit 16; CR4 has SMEP at 20, SMAP at 21, PKE at 22, PKS at 24 (SDM vol. 3, 2.5)."""
    assert error_code(keyed(P | U).walk(VA, WRITE, cr0=1 << 16)) == ERROR_P | ERROR_WR
    assert error_code(keyed().walk(VA, FETCH, cr4=1 << 20)) == ERROR_P | ERROR_ID
    assert error_code(keyed().walk(VA, READ, cr4=1 << 21)) == ERROR_P
    assert error_code(keyed().walk(VA, READ, cr4=1 << 22, pkru=AD)) == ERROR_P | ERROR_PK
    assert error_code(keyed(P).walk(VA, READ, cr4=1 << 24, pkrs=AD)) == ERROR_P | ERROR_PK
    for bit in (19, 23, 25):
        assert isinstance(keyed(P).walk(VA, READ, cr4=1 << bit, pkru=AD, pkrs=AD), Translation)
