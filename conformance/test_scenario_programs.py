"""Scenarios: what a file may say, what its page tables translate, what it compiles to."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from mmu_model.scenario import (
    HostOp,
    Mode,
    Op,
    Program,
    Scenario,
    ScenarioError,
    Touch,
    compile_scenario,
    read_scenario,
    touches,
)
from mmu_model.scenario.layout import MACHINE_SIZE, PAGE, SMM_STEPS, STEPS, STEPS_END, USER_CODE, VMCB
from mmu_model.scenario.tables import FORMATS, GuestTables
from mmu_model.snapshot import MmuKind

Reader: TypeAlias = Callable[[str], Scenario]

SCENARIOS = Path(__file__).parents[1] / "conformance" / "scenarios"

HEAD = """\
title: A test.
mode: 4-level
memory:
  1: {base: 2M, size: 2M}
tables:
  main:
    - {at: 0x40000000, to: 2M, count: 2}
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Reader:
    """Reads a scenario from text."""

    def read(text: str) -> Scenario:
        path = tmp_path / "some.yaml"
        path.write_text(text)
        return read_scenario(path)

    return read


def with_steps(*steps: str) -> str:
    return HEAD + "steps:\n" + "".join(f"  - {step}\n" for step in steps)


def test_a_scenario_is_read_with_its_lines(scenario: Reader) -> None:
    read = scenario(with_steps("write: {at: 0x40000000, user: true}", "snapshot: end"))

    assert (read.name, read.title, read.mode) == ("some", "A test.", Mode.LEVEL_4)
    assert read.kinds == tuple(MmuKind)
    assert [(step.line, type(step).__name__) for step in read.steps] == [(9, "Access"), (10, "TakeSnapshot")]
    assert read.slots[0].base == 2 << 20


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "empty; a scenario has title, vm and steps"),
        ("title: [", 1, "not YAML"),
        ("title: x\nmode: 4-level\n", 1, "'steps' is missing"),
        ("title: x\nmode: 3-level\nsteps: []\n", 2, "'3-level' is none of real, protected"),
        ("title: x\nmode: 4-level\nsteps: []\n", 1, "mode 4-level needs tables"),
        ("title: x\nmode: real\ntables: {main: []}\nsteps: []\n", 3, "mode real has no page tables"),
        (HEAD + "colour: red\nsteps: []\n", 8, "unknown key 'colour'; known are title"),
        (HEAD + "steps: {}\n", 8, "a list expected"),
        (with_steps("jump: 3"), 9, "unknown step 'jump'; known are read, write"),
        (with_steps("read: here"), 9, "'here' is no number"),
        (with_steps("read: 0x800000000000"), 9, "0x800000000000 is not canonical"),
        (with_steps("read: {at: 1, at: 2}"), 9, "'at' a second time"),
        (with_steps("read: {at: 1, colour: 2}"), 9, "unknown key 'colour'"),
        (with_steps("{read: 1, write: 2}"), 9, "a step is one key and its value"),
        (with_steps("cr3: other"), 9, "no address space 'other'"),
        (with_steps("set: {cr4.pae: 0}"), 9, r"bits are cr0\.wp"),
        (with_steps("nested: []"), 9, "nested steps need the key 'nested' at the top"),
        (with_steps("smm: [cr3: main]"), 9, "'cr3' is not possible in here"),
        (with_steps("set_entry: {in: main, at: 0, level: 1}"), 9, "one of 'to', 'table' and 'clear'"),
        (with_steps("set_entry: {in: main, at: 0, level: 7, clear: true}"), 9, "'7' is no level of 4-level"),
        (with_steps("set_entry: {in: main, at: 0, level: 4, to: 0}"), 9, "no pages at level 4"),
        (with_steps("drop: {slot: 2}"), 9, "no slot 2"),
        (with_steps("drop: {slot: 1, page: 511, count: 2}"), 9, "2 is not from 0x1 to 0x1"),
        (with_steps("slot: {id: 2, base: 3M, size: 1M}"), 9, "slot 2 overlaps slot 1"),
        (with_steps("slot: {id: 2, base: 4K, size: 1M}"), 9, "slot 2 begins below 0x80000"),
        (with_steps("slot: {id: 2, base: 0x800100, size: 1M}"), 9, "0x800100 is no multiple of 0x1000"),
        (with_steps("slot: {id: 2, base: 8M, size: 0}"), 9, "slot 2 is empty"),
        (HEAD + "kernels: ['5.4']\nsteps: []\n", 8, r"'5\.4' is none of 6\.1, 6\.12"),
        (HEAD + "nested: {cr3: main, npt: main}\nsteps: []\n", 8, "no nested page table 'main'"),
        (
            "title: x\nmode: real\nsteps:\n  - read: {at: 0, fault: true}\n",
            4,
            "nothing faults without paging",
        ),
    ],
)
def test_what_a_line_cannot_mean_is_an_error_there(
    scenario: Reader, tmp_path: Path, text: str, line: int, message: str
) -> None:
    with pytest.raises(ScenarioError, match=message) as refused:
        scenario(text)
    assert str(refused.value).startswith(f"{tmp_path / 'some.yaml'}:{line}: error: ")


@pytest.mark.parametrize(
    ("mappings", "line", "message"),
    [
        ("    - {at: 0x40001000, to: 4M}\n", 8, "0x40001000 is mapped a second time"),
        ("    - {at: 0x40002000, to: 4M, through: {2: [u]}}\n", 8, "level 2 has other flags already"),
        ("    - {at: 0x80000000, to: 4M, count: 100, every: 2M}\n", 8, "more than 64 page tables"),
        (
            "    - {at: 0x80000000, share: {in: main, at: 0xc0000000, level: 2}}\n",
            8,
            "no table at level 2 there",
        ),
        (
            "    - {at: 0x80000000, share: {in: main, at: 0x40000000, level: 1}}\n",
            8,
            "points to no table there",
        ),
        (
            "    - {at: 0x80000000, to: 4M, size: 2M}\n    - {at: 0x80001000, to: 4M}\n",
            9,
            "lies in a large page mapped before",
        ),
    ],
)
def test_page_tables_that_cannot_be_built_are_an_error(
    scenario: Reader, mappings: str, line: int, message: str
) -> None:
    with pytest.raises(ScenarioError, match=message) as refused:
        compile_scenario(scenario(HEAD + mappings + "steps: []\n"))
    assert f":{line}: error: " in str(refused.value)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="cannot read it: No such file"):
        read_scenario(tmp_path / "none.yaml")


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
def test_page_tables_translate_what_the_mappings_say(scenario: Reader, mode: Mode) -> None:
    large = "4M" if mode is Mode.PAGING_32 else "2M"
    text = HEAD.replace("4-level", mode.value) + (
        f"    - {{at: 0x80000000, to: 8M, size: {large}, flags: [u]}}\n"
        "    - {at: 0xc0000000, share: {in: main, at: 0x40000000, level: 2}}\n"
        "  other: []\nsteps: []\n"
    )
    tables = GuestTables(scenario(text))

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


def test_steps_become_records(scenario: Reader) -> None:
    program = compile_scenario(
        scenario(
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


def test_an_entry_is_written_where_the_tables_have_it(scenario: Reader) -> None:
    read = scenario(
        with_steps(
            "set_entry: {in: main, at: 0x40001000, level: 1, to: 0x300000, flags: [w, nx]}",
            "set_entry: {in: main, at: 0x40200000, level: 2, table: {in: main, at: 0x40000000, level: 2}}",
            "set_entry: {in: main, at: 0x40201000, level: 1, clear: true}",
        )
    )
    tables = GuestTables(read)
    program = compile_scenario(read)

    leaf = next(at for at, entry in tables.entries.items() if entry & ~7 == 0x201000 and at % PAGE == 8)
    (first, second, third) = ops(program)
    assert first == (Op.WRITE, leaf, 1 << 63 | 0x300003)
    assert second[2] == (leaf & ~0xFFF) | 7
    assert third == (Op.WRITE, leaf, 0), "the new directory entry leads to the same table"
    assert program.words[leaf] == 0x201007, "initial memory is what was there before"


def test_a_pae_entry_is_written_in_halves_the_lower_one_last(scenario: Reader) -> None:
    text = with_steps(
        "set_entry: {in: main, at: 0x40000000, level: 1, to: 0x300000, flags: [nx]}",
        "set_entry: {in: main, at: 0x40000000, level: 1, clear: true}",
    ).replace("4-level", "pae")

    halves = ops(compile_scenario(scenario(text)))

    low = halves[1][1]
    assert halves == [
        (Op.WRITE_4, low + 4, 1 << 31),
        (Op.WRITE_4, low, 0x300001),
        (Op.WRITE_4, low, 0),
        (Op.WRITE_4, low + 4, 0),
    ]


def test_host_steps_in_a_row_are_one_exit(scenario: Reader) -> None:
    program = compile_scenario(
        scenario(
            with_steps("snapshot: a", "delete_slot: 1", "snapshot: b", "read: 0x40000000", "snapshot: c")
        )
    )

    assert ops(program) == [(Op.HOST, 0, 3), (Op.READ, 0x40000000, 0), (Op.HOST, 3, 1)]
    assert [(call.op, call.step) for call in program.host_calls] == [
        (HostOp.SNAPSHOT, 0),
        (HostOp.SET_SLOT, 1),
        (HostOp.SNAPSHOT, 2),
        (HostOp.SNAPSHOT, 4),
    ]
    assert program.snapshots == ("a", "b", "c")


def test_smm_and_nested_steps_have_lists_of_their_own(scenario: Reader) -> None:
    program = compile_scenario(
        scenario(
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


def test_slots_have_their_place_in_the_backing(scenario: Reader) -> None:
    text = HEAD.replace(
        "  1: {base: 2M, size: 2M}\n",
        "  1: {base: 0x301000, size: 8K, smm: true}\n"
        "  2: {base: 8M, size: 2M, large: true, dirty_log: true}\n"
        "  3: {base: 16M, size: 8K, shares: 1, readonly: true}\n",
    )
    program = compile_scenario(scenario(text + "steps:\n  - smm: []\n"))

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


def test_the_binary_form_has_what_its_header_counts(scenario: Reader) -> None:
    program = compile_scenario(scenario(with_steps("read: 0x40000000", "snapshot: end")))
    data = program.to_bytes({0x2000: 5})

    header = struct.unpack_from("<15Q", data, 8)
    large, slots, words, calls = header[11:]
    assert data[:8] == b"KVMSCN01"
    assert header[1:5] == (0x80010033, 0x40000, 0x20, 0xD01)
    assert len(data) == 8 + 8 * (15 + 2 * large + 7 * slots + 2 * words + 7 * calls)
    assert (slots, calls) == (2, 1)
    assert words == len(program.words) + 1
    assert (
        program.digest == compile_scenario(scenario(with_steps("read: 0x40000000", "snapshot: end"))).digest
    )


def test_too_many_steps_are_an_error(scenario: Reader) -> None:
    with pytest.raises(ScenarioError, match="too many steps; make two scenarios of it"):
        compile_scenario(scenario(with_steps(*["read: {at: 0x40000000, count: 512, every: 1}"] * 4)))


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
