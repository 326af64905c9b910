"""Scenarios: what their page tables translate, and what they compile to."""

import struct
from pathlib import Path

import pytest

from conformance.short_scenarios import HEAD, Reader, with_steps
from mmu_model.scenario import (
    HostOp,
    Mode,
    Op,
    Program,
    Touch,
    compile_scenario,
    read_scenario,
    touches,
)
from mmu_model.scenario.layout import MACHINE_SIZE, PAGE, SMM_STEPS, STEPS, STEPS_END, USER_CODE, VMCB
from mmu_model.scenario.tables import FORMATS, GuestTables

SCENARIOS = Path(__file__).parent / "scenarios"


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


def ops(program: Program) -> list[tuple[Op, int, int]]:
    """The main list, without its end."""
    main = [record for record in program.records if record.at < STEPS + 0x8000]
    assert main[-1].op is Op.END
    return [(record.op, record.address, record.value) for record in main[:-1]]


def test_steps_become_records(read: Reader) -> None:
    program = compile_scenario(
        read(
            with_steps(
                "read: 0x40000000",
                "write: {at: 0x40000008, value: 7, user: true}",
                "write: {at: 0x40000008, value: 7, size: 1}",
                "fetch: {at: 0x40000000, count: 2}",
                "invlpg: 0x40000000",
                "set: {cr4.smep: 1}",
                "set: {cr0.wp: 0}",
                "cr3: main",
            )
        )
    )

    assert ops(program) == [
        (Op.READ, 0x40000000, 0),
        (Op.USER_WRITE, 0x40000008, 7),
        (Op.WRITE_1, 0x40000008, 7),
        (Op.FETCH, 0x40000000, 0),
        (Op.FETCH, 0x40001000, 0),
        (Op.INVLPG, 0x40000000, 0),
        (Op.CR4, 0, 0x100020),
        (Op.CR0, 0, 0x80000033),
        (Op.CR3, 0, 0x40000),
    ]
    assert [record.step for record in program.records] == [0, 1, 2, 3, 3, 4, 5, 6, 7, 0]


def test_an_entry_is_written_where_the_tables_have_it(read: Reader) -> None:
    scenario = read(
        with_steps(
            "set_entry: {in: main, at: 0x40001000, level: 1, to: 0x300000, flags: [w, nx]}",
            "set_entry: {in: main, at: 0x40200000, level: 2, table: {in: main, at: 0x40000000, level: 2}}",
            "set_entry: {in: main, at: 0x40201000, level: 1, clear: true}",
        )
    )
    tables = GuestTables(scenario)
    program = compile_scenario(scenario)

    leaf = next(at for at, entry in tables.entries.items() if entry & ~7 == 0x201000 and at % PAGE == 8)
    (first, second, third) = ops(program)
    assert first == (Op.WRITE, leaf, 1 << 63 | 0x300003)
    assert second[2] == (leaf & ~0xFFF) | 7
    assert third == (Op.WRITE, leaf, 0), "the new directory entry leads to the same table"
    assert program.words[leaf] == 0x201007, "initial memory is what was there before"


def test_a_pae_entry_is_written_in_halves_the_lower_one_last(read: Reader) -> None:
    text = with_steps(
        "set_entry: {in: main, at: 0x40000000, level: 1, to: 0x300000, flags: [nx]}",
        "set_entry: {in: main, at: 0x40000000, level: 1, clear: true}",
    ).replace("4-level", "pae")

    halves = ops(compile_scenario(read(text)))

    low = halves[1][1]
    assert halves == [
        (Op.WRITE_4, low + 4, 1 << 31),
        (Op.WRITE_4, low, 0x300001),
        (Op.WRITE_4, low, 0),
        (Op.WRITE_4, low + 4, 0),
    ]


def test_host_steps_in_a_row_are_one_exit(read: Reader) -> None:
    program = compile_scenario(
        read(with_steps("snapshot: a", "delete_slot: 1", "snapshot: b", "read: 0x40000000", "snapshot: c"))
    )

    assert ops(program) == [(Op.HOST, 0, 3), (Op.READ, 0x40000000, 0), (Op.HOST, 3, 1)]
    assert [(call.op, call.step) for call in program.host_calls] == [
        (HostOp.SNAPSHOT, 0),
        (HostOp.SET_SLOT, 1),
        (HostOp.SNAPSHOT, 2),
        (HostOp.SNAPSHOT, 4),
    ]
    assert program.snapshots == ("a", "b", "c")


def test_smm_and_nested_steps_have_lists_of_their_own(read: Reader) -> None:
    program = compile_scenario(
        read(
            HEAD
            + "nested: {cr3: main}\nsteps:\n"
            + "  - nested: [read: 0x40000000]\n  - smm: [write: 0x200000]\n  - snapshot: after-smm\n"
        )
    )

    by_place = {record.at: record for record in program.records}
    nested, smm = STEPS_END - 64, STEPS_END - 128
    assert [by_place[nested + 32 * i].op for i in range(2)] == [Op.READ, Op.VMMCALL]
    assert [by_place[smm + 32 * i].op for i in range(2)] == [Op.WRITE, Op.RSM]
    assert ops(program) == [
        (Op.HOST, 0, 1),
        (Op.VMRUN, VMCB, nested),
        (Op.HOST, 1, 2),
        (Op.HOST, 3, 1),
    ], "the guest must run between the SMI and what comes after SMM"
    assert program.host_calls[1].args == (SMM_STEPS, smm, 8)
    assert [record.step for record in program.records if record.op in (Op.READ, Op.WRITE)] == [1, 3]
    assert program.smm
    assert program.nested


def test_slots_have_their_place_in_the_backing(read: Reader) -> None:
    text = HEAD.replace(
        "  1: {base: 2M, size: 2M}\n",
        "  1: {base: 0x301000, size: 8K, smm: true}\n"
        "  2: {base: 8M, size: 2M, large: true, dirty_log: true}\n"
        "  3: {base: 16M, size: 8K, shares: 1, readonly: true}\n",
    )
    program = compile_scenario(read(text + "steps:\n  - smm: []\n"))

    rows = [call.args for call in program.slots]
    assert rows == [
        (0, 0, 0, MACHINE_SIZE, 0),
        (1 << 16, 0, 0, MACHINE_SIZE, 0),
        (1, 0, 0x301000, 0x2000, 0x301000),
        (1 | 1 << 16, 0, 0x301000, 0x2000, 0x301000),
        (2, 1, 8 << 20, 2 << 20, 4 << 20),
        (3, 2, 16 << 20, 0x2000, 0x301000),
    ]
    assert program.large == ((4 << 20, 2 << 20),)
    assert program.backing == 6 << 20


def test_the_binary_form_has_what_its_header_counts(read: Reader) -> None:
    program = compile_scenario(read(with_steps("read: 0x40000000", "snapshot: end")))
    data = program.to_bytes({0x2000: 5})

    header = struct.unpack_from("<15Q", data, 8)
    large, slots, words, calls = header[11:]
    assert data[:8] == b"KVMSCN01"
    assert header[1:5] == (0x80010033, 0x40000, 0x20, 0xD01)
    assert len(data) == 8 + 8 * (15 + 2 * large + 7 * slots + 2 * words + 7 * calls)
    assert (slots, calls) == (2, 1)
    assert words == len(program.words) + 1
    assert program.digest == compile_scenario(read(with_steps("read: 0x40000000", "snapshot: end"))).digest


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


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_scenario_of_the_project_compiles(path: Path) -> None:
    scenario = read_scenario(path)

    program = compile_scenario(scenario)

    assert program.snapshots, "a scenario without a snapshot shows nothing"
    assert len(set(program.snapshots)) == len(program.snapshots)
    assert scenario.title.endswith(".")
