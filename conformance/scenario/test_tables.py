"""The page tables of a scenario's guest, and what of its memory each step touches."""

import pytest

from conformance.scenario.short_scenarios import HEAD, Reader
from mmu_model.scenario import Mode, Op, Touch, compile_scenario, touches
from mmu_model.scenario.layout import MACHINE_SIZE, PAGE, STEPS, USER_CODE
from mmu_model.scenario.schema import Place
from mmu_model.scenario.tables import FORMATS, GuestTables


def walk(mode: Mode, entries: dict[int, int], root: int, address: int) -> tuple[int, int] | None:
    """Translates as the processor would, and gives the last entry's flags; None where nothing is mapped."""
    size = 4 if mode is Mode.PAGING_32 else 8
    bits = 10 if size == 4 else 9
    levels = {Mode.PAGING_32: 2, Mode.PAE: 3, Mode.LEVEL_4: 4, Mode.LEVEL_5: 5}[mode]
    table = root
    for level in range(levels, 0, -1):
        shift = 12 + bits * (level - 1)
        index = address >> shift & ((1 << bits) - 1)
        entry = entries.get(table + index * size, 0)
        if not entry & 1:
            return None
        if level == 1 or entry & 0x80:
            return entry & 0xFFFFFFFFFF000 | address & (1 << shift) - 1, entry & 6
        table = entry & 0xFFFFFFFFFF000
    raise AssertionError


@pytest.mark.parametrize("mode", FORMATS, ids=lambda mode: mode.value)
def test_page_tables_translate_what_the_mappings_say(read: Reader, mode: Mode) -> None:
    large = "4M" if mode is Mode.PAGING_32 else "2M"
    text = HEAD.replace("4-level", mode.value) + (
        f"    - {{at: 0x80000000, to: 8M, size: {large}, flags: [u]}}\n"
        "    - {at: 0xc0000000, share: {in: main, at: 0x40000000, level: 2}}\n"
        "  other: []\nsteps: []\n"
    )
    tables = GuestTables(read(text))

    def translate(name: str, address: int) -> tuple[int, int] | None:
        return walk(mode, tables.entries, tables.roots[name], address)

    assert translate("main", 0x40001234) == (0x201234, 6)
    assert translate("main", 0x40002000) is None
    assert translate("main", 0x80123456) == (0x923456, 4)
    assert translate("main", 0xC0000000) == (0x200000, 6)
    for name in ("main", "other"):
        for gpa in range(0, MACHINE_SIZE, PAGE):
            assert translate(name, gpa) == (gpa, 4 if gpa == USER_CODE else 2)


def leaf(read: Reader, mapping: str, at: int = 0x80000000, level: int = 1, mode: str = "4-level") -> int:
    """The entry that the mapping makes."""
    text = HEAD.replace("4-level", mode) + f"    - {{{mapping}}}\nsteps: []\n"
    tables = GuestTables(read(text))
    return tables.entries[tables.entry_at(Place("main", at, level), 1)]


@pytest.mark.parametrize(
    ("flag", "bit"),
    [("w", 1), ("u", 2), ("pwt", 3), ("pcd", 4), ("a", 5), ("d", 6), ("g", 8), ("nx", 63)],
)
def test_each_flag_has_its_bit(read: Reader, flag: str, bit: int) -> None:
    """In the last entry and, if it is asked for, in those above (SDM Vol. 3, 4.5, table 4-20)."""
    assert leaf(read, f"at: 0x80000000, to: 4M, flags: [{flag}]") == 0x400001 | 1 << bit
    through = f"at: 0x80000000, to: 4M, through: {{2: [{flag}]}}"
    assert leaf(read, through, level=2) & ~0xFF000 == 1 | 1 << bit
    assert leaf(read, through) == 0x400007
    assert leaf(read, through, level=3) & 0xFFF == 7


@pytest.mark.parametrize(
    ("mode", "size", "level"),
    [("32-bit", "4M", 2), ("pae", "2M", 2), ("4-level", "2M", 2), ("4-level", "1G", 3), ("5-level", "1G", 3)],
)
def test_a_large_page_has_bit_7(read: Reader, mode: str, size: str, level: int) -> None:
    mapping = f"at: 0x80000000, to: 1G, size: {size}"

    assert leaf(read, mapping, level=level, mode=mode) == 0x40000087


def test_the_uppermost_entries_of_pae_paging_have_no_flags(read: Reader) -> None:
    """SDM Vol. 3, 4.4.1: bits 1 and 2 are reserved there."""
    assert leaf(read, "at: 0x80000000, to: 4M, through: {3: [w, nx]}", level=3, mode="pae") & ~0xFF000 == 1
    assert leaf(read, "at: 0x80000000, to: 4M", level=2, mode="pae") & 0xFFF == 7
    assert leaf(read, "at: 0x80000000, to: 4M, through: {3: [w]}", level=3) & 0xFFF == 3


def test_pages_one_after_the_other_or_one_page_many_times(read: Reader) -> None:
    row = "at: 0x80000000, to: 4M, count: 3"
    alias = "at: 0x80000000, to: 4M, count: 3, every: 8K"

    assert [leaf(read, row, 0x80000000 + n * PAGE) >> 12 for n in range(3)] == [0x400, 0x401, 0x402]
    assert [leaf(read, alias, 0x80000000 + n * 2 * PAGE) >> 12 for n in range(3)] == [0x400] * 3
    for missing in (0x80003000, 0x7FFFF000):
        with pytest.raises((KeyError, ValueError)):
            leaf(read, row, missing)


def test_tables_are_used_one_after_the_other(read: Reader) -> None:
    """From 256 KiB on; an address space has its root, and shares the table of the interpreter's pages."""
    text = HEAD + "  other:\n    - {at: 0, size: 4K}\nsteps: []\n"
    tables = GuestTables(read(text.replace("{at: 0, size: 4K}", "{at: 1G, to: 2M}")))

    assert tables.roots == {"main": 0x40000, "other": 0x46000}
    lowest = [tables.table_below(Place(name, 0, 2), 1) for name in ("main", "other")]
    assert lowest == [0x43000, 0x43000]
    with pytest.raises(ValueError, match="0x0 is mapped a second time"):
        compile_scenario(read(text))


def test_nested_tables_let_the_nested_guest_use_the_interpreter(read: Reader) -> None:
    """All of it: to the processor a nested guest's accesses are a user's (APM Vol. 2, 15.25.5)."""
    tables = GuestTables(read(HEAD + "  npt: {npt: [{at: 2M}]}\n  more: {npt: []}\nsteps: []\n"))

    for name in ("npt", "more"):
        for gpa in range(0, MACHINE_SIZE, PAGE):
            assert walk(Mode.LEVEL_4, tables.entries, tables.roots[name], gpa) == (gpa, 6)
    assert walk(Mode.LEVEL_4, tables.entries, tables.roots["npt"], 2 << 20) == (2 << 20, 6)
    assert walk(Mode.LEVEL_4, tables.entries, tables.roots["main"], 0) == (0, 2)


def test_two_entries_of_4_bytes_share_a_word(read: Reader) -> None:
    scenario = read(HEAD.replace("4-level", "32-bit") + "steps: []\n")
    tables = GuestTables(scenario)
    at = tables.entry_at(Place("main", 0x40000000, 1), 1)

    assert tables.entry_at(Place("main", 0x40001000, 1), 1) == at + 4
    assert compile_scenario(scenario).words[at] == 0x00201007_00200007


def test_a_read_touches_code_record_and_operand() -> None:
    assert touches(Op.READ, 0x40000000, 0, at=STEPS, mode=Mode.LEVEL_4) == (
        Touch("fetch", 0, 1),
        Touch("read", STEPS, 24),
        Touch("read", 0x40000000, 8),
    )


def test_a_users_write_that_faults_touches_descriptors_and_stack() -> None:
    found = touches(Op.USER_WRITE, 0x40000000, 7, at=STEPS, mode=Mode.PAE, faults=True)

    assert found == (
        Touch("fetch", 0, 1),
        Touch("read", STEPS, 24),
        Touch("fetch", USER_CODE, 1, user=True),
        Touch("write", 0x40000000, 4, user=True, value=7),
        Touch("read", 0x2000, 4),
        Touch("write", 0x4000 - 24, 24),
        Touch("fetch", 0, 1),
    )


CODE, RECORD, RETURN = Touch("fetch", 0, 1), Touch("read", STEPS, 24), Touch("fetch", 0, 1)


@pytest.mark.parametrize("mode", list(Mode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(
    ("op", "kind", "size", "user"),
    [
        (Op.READ, "read", 0, False),
        (Op.WRITE, "write", 0, False),
        (Op.WRITE_1, "write", 1, False),
        (Op.WRITE_4, "write", 4, False),
        (Op.FETCH, "fetch", 2, False),
        (Op.USER_READ, "read", 0, True),
        (Op.USER_WRITE, "write", 0, True),
        (Op.USER_FETCH, "fetch", 2, True),
    ],
)
def test_an_access_is_made_between_the_interpreters_own(
    op: Op, kind: str, size: int, user: bool, mode: Mode
) -> None:
    """As wide as a register if nothing else is said; by a part of the interpreter for users if it is one's.

    System-management mode begins 32 KiB above SMBASE, which is 0x30000 (SDM Vol. 3, 31.3).
    """
    word = 8 if mode.value in ("4-level", "5-level") else 4
    for in_smm in (False, True):
        code = Touch("fetch", 0x38000, 1) if in_smm else CODE
        wide = size or (4 if in_smm else word)
        own = Touch(kind, 0x5000, wide, user, 7 if kind == "write" else None)
        around = ([Touch("fetch", USER_CODE, 1, user=True)], [code]) if user else ([], [])
        assert list(touches(op, 0x5000, 7, at=STEPS, mode=mode, in_smm=in_smm)) == [
            *(code, RECORD),
            *around[0],
            own,
            *around[1],
        ]


@pytest.mark.parametrize("op", [Op.CR3, Op.HOST, Op.INVLPG, Op.VMRUN, Op.END])
def test_other_steps_touch_nothing_else(op: Op) -> None:
    assert touches(op, 0x5000, 7, at=STEPS, mode=Mode.PAE) == (CODE, RECORD)


@pytest.mark.parametrize(
    ("mode", "op", "frame", "word"),
    [
        (Mode.LEVEL_4, Op.READ, 48, 8),
        (Mode.LEVEL_5, Op.USER_READ, 48, 8),
        (Mode.PAE, Op.READ, 16, 4),
        (Mode.PAE, Op.USER_READ, 24, 4),
    ],
)
def test_a_fault_pushes_a_frame(mode: Mode, op: Op, frame: int, word: int) -> None:
    """SS and ESP only if the privilege changes; in long mode always (SDM Vol. 3, 6.12.1 and 6.14.2)."""
    found = touches(op, 0x40000000, 0, at=STEPS, mode=mode, faults=True)

    assert found[-3:] == (Touch("read", 0x2000, word), Touch("write", 0x4000 - frame, frame), RETURN)
    assert found[:-3] == touches(op, 0x40000000, 0, at=STEPS, mode=mode)[: 4 if op is Op.USER_READ else 3]
