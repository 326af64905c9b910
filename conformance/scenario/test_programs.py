"""Scenarios: what they compile to; steps for the guest, calls for the host, and the form that is loaded."""

import gzip
import json
import struct
from pathlib import Path

import pytest

from conformance.scenario.short_scenarios import HEAD, Reader, with_steps
from mmu_model.scenario import (
    HostOp,
    Op,
    Program,
    compile_scenario,
    read_scenario,
)
from mmu_model.scenario.layout import MACHINE_SIZE, PAGE, SMM_STEPS, STEPS, STEPS_END, VMCB
from mmu_model.scenario.schema import Place
from mmu_model.scenario.tables import GuestTables

SCENARIOS = Path(__file__).parents[1] / "scenarios"
RECORDINGS = Path(__file__).parents[1] / "recordings"


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


def test_every_access_and_register_has_its_operation(read: Reader) -> None:
    steps = (
        *("fetch: {at: 0, user: 1}", "read: {at: 8, user: 1}", "write: {at: 8, user: 1, value: 1}"),
        *("fetch: 0", "read: 8", "write: {at: 8, value: 2, size: 4}", "write: {at: 8, count: 2, every: 8}"),
        *("set: {efer.nx: 0}", "set: {cr4.pge: 1}", "set: {cr4.smap: 1}", "set: {cr4.pge: 0}"),
        *("set: {cr0.wp: 0}", "set: {cr0.wp: 1}", "set: {cr4.smap: 1}"),
    )

    assert ops(compile_scenario(read(with_steps(*steps)))) == [
        (Op.USER_FETCH, 0, 0),
        (Op.USER_READ, 8, 0),
        (Op.USER_WRITE, 8, 1),
        (Op.FETCH, 0, 0),
        (Op.READ, 8, 0),
        (Op.WRITE_4, 8, 2),
        (Op.WRITE, 8, 0x5EED),
        (Op.WRITE, 16, 0x5EED),
        (Op.EFER, 0, 0x501),
        (Op.CR4, 0, 0xA0),
        (Op.CR4, 0, 0x2000A0),
        (Op.CR4, 0, 0x200020),
        (Op.CR0, 0, 0x80000033),
        (Op.CR0, 0, 0x80010033),
        (Op.CR4, 0, 0x200020),
    ]


@pytest.mark.parametrize(
    ("mode", "cr0", "cr4", "efer"),
    [
        ("real", 0x30, 0, 1),
        ("protected", 0x33, 0, 1),
        ("32-bit", 0x80010033, 0x10, 0x801),
        ("pae", 0x80010033, 0x20, 0x801),
        ("4-level", 0x80010033, 0x20, 0xD01),
        ("5-level", 0x80010033, 0x1020, 0xD01),
    ],
)
def test_registers_at_the_start(read: Reader, mode: str, cr0: int, cr4: int, efer: int) -> None:
    """SDM Vol. 3, 2.5 and 4.1: PG, WP, NE, ET, MP, PE; PSE, PAE, LA57; SCE, LME, LMA, NXE."""
    tables = "tables: {other: [], main: []}\n" if mode not in ("real", "protected") else ""
    text = f"title: x\nmode: {mode}\n{tables}steps: []\n"

    def start(more: str = "") -> tuple[int, int, int, int]:
        registers = compile_scenario(read(text + more)).registers
        return registers.cr0, registers.cr3, registers.cr4, registers.efer

    cr3 = 0x40000 if tables else 0
    assert start() == (cr0, cr3, cr4, efer)
    assert start("cpu: {wp: 0, nx: 0}") == (cr0 & ~0x10000, cr3, cr4, efer & ~0x800)
    assert start("cpu: {smep: 1, smap: 1}") == (cr0, cr3, cr4 | 0x300000, efer)
    if tables:
        assert start("nested: {cr3: main}") == (cr0, cr3, cr4, efer | 0x1000)


def test_calls_of_the_host(read: Reader) -> None:
    """Places are those in the memory behind the VM, and pages are counted within the slot."""
    steps = (
        *(
            "drop: {slot: 2, page: 3, count: 2}",
            "host_readonly: {slot: 2}",
            "host_writable: {slot: 3, page: 1}",
        ),
        *("get_dirty_log: 2", "clear_dirty_log: {slot: 2, page: 64, count: 5}", "delete_slot: 3"),
        *("slot: {id: 2, dirty_log: true}", "slot: {id: 5, base: 1G, size: 8K, smm: true, readonly: true}"),
        "slot: {id: 6, base: 2G, size: 8K, shares: 5}",
    )
    slots = "  2: {base: 8M, size: 1M}\n  3: {base: 16M, size: 8K, shares: 2}\n"
    program = compile_scenario(read(with_steps(*steps, head=HEAD.replace("tables:", slots + "tables:"))))
    place, new = 4 << 20, 6 << 20

    assert [(call.op, *call.args) for call in program.host_calls] == [
        (HostOp.DROP, place + 0x3000, 0x2000),
        (HostOp.PROTECT, place, 0x1000, False),
        (HostOp.PROTECT, place + 0x1000, 0x1000, True),
        (HostOp.GET_DIRTY, 2),
        (HostOp.CLEAR_DIRTY, 2, 64, 5),
        (HostOp.SET_SLOT, 3, 0, 16 << 20, 0, place),
        (HostOp.SET_SLOT, 2, 1, 8 << 20, 1 << 20, place),
        (HostOp.SET_SLOT, 5, 2, 1 << 30, 0x2000, new),
        (HostOp.SET_SLOT, 5 | 1 << 16, 2, 1 << 30, 0x2000, new),
        (HostOp.SET_SLOT, 6, 0, 2 << 30, 0x2000, new),
    ]
    assert [call.step for call in program.host_calls] == [0, 1, 2, 3, 4, 5, 6, 7, 7, 8]
    assert program.backing == new + 0x2000
    assert not program.smm


def test_an_entry_written_quietly_is_poked(read: Reader) -> None:
    """By userspace, where the entry is, as wide as it is."""
    for mode, size, index in (("32-bit", 4, 1), ("pae", 8, 1), ("4-level", 8, 1)):
        step = "set_entry: {in: main, at: 0x40001000, level: 1, to: 3M, flags: [u], quietly: true}"
        scenario = read(with_steps(step).replace("4-level", mode))
        (call,) = compile_scenario(scenario).host_calls
        place = GuestTables(scenario).entry_at(Place("main", 0x40001000, 1), 1)

        assert (call.op, *call.args) == (HostOp.POKE, place, 0x300005, size)
        assert place % PAGE == index * size


def test_a_4_byte_entry_is_written_at_once(read: Reader) -> None:
    steps = (
        "set_entry: {in: main, at: 0x40001000, level: 1, to: 3M}",
        "set_entry: {in: main, at: 0x80000000, level: 2, to: 4M, flags: [w]}",
        "set_entry: {in: main, at: 0x80400000, level: 2, table: {in: main, at: 0x40000000, level: 2}}",
        "set_entry: {in: main, at: 0x80401000, level: 1, clear: true}",
    )
    first, second, third, last = ops(compile_scenario(read(with_steps(*steps).replace("4-level", "32-bit"))))

    assert [first[0], first[2]] == [Op.WRITE_4, 0x300007]
    assert second == (Op.WRITE_4, 0x40800, 0x400083)
    assert third == (Op.WRITE_4, 0x40804, first[1] & ~0xFFF | 7)
    assert last == (Op.WRITE_4, first[1], 0)


def test_the_upper_half_of_a_pae_entry_is_left_alone_if_it_stays(read: Reader) -> None:
    """And is written first, while the entry is not present, if a page appears; last if it goes."""
    steps = (
        "set_entry: {in: main, at: 0x40002000, level: 1, to: 4M}",
        "set_entry: {in: main, at: 0x40000000, level: 1, to: 3M}",
        "set_entry: {in: main, at: 0x40000000, level: 1, to: 8G}",
        "set_entry: {in: main, at: 0x40000000, level: 1, to: 8G, flags: []}",
        "set_entry: {in: main, at: 0x40000000, level: 1, clear: true}",
    )
    found = ops(compile_scenario(read(with_steps(*steps).replace("4-level", "pae"))))
    at = found[1][1]

    assert [(where - at, value) for _, where, value in found] == [
        (16, 0x400007),
        (0, 0x300007),
        *((4, 2), (0, 7)),
        (0, 1),
        *((0, 0), (4, 0)),
    ]


def test_the_binary_form(read: Reader) -> None:
    """A header, and what it counts: large parts, slots, words of memory and host calls, 64 bits each."""
    slots = "  2: {base: 8M, size: 2M, large: true, dirty_log: true}\n"
    more = "cpu: {maxphyaddr: 36}\nhost: {nx_huge_pages: 1}\nmanual_dirty_log: true\nnested: {cr3: main}\n"
    text = with_steps("read: 0x40000000", "snapshot: end", "smm: []", head=HEAD + more)
    program = compile_scenario(read(text.replace("tables:", slots + "tables:")))
    data = program.to_bytes({0x2000: 5})
    numbers = struct.unpack(f"<{len(data) // 8 - 1}Q", data[8:])
    words = len(program.words) + 1

    assert data[:8] == b"KVMSCN01"
    assert numbers[:6] == (4, 0x80010033, 0x40000, 0x20, 0x1D01, 36)
    assert numbers[6:11] == (1, 1, 1, 1, 6 << 20)
    assert numbers[11:15] == (1, 4, words, 3)
    assert numbers[15:17] == (4 << 20, 2 << 20)
    assert numbers[17:45] == (
        *(1, 0, 0, 0, 0, MACHINE_SIZE, 0),
        *(1, 0, 1 << 16, 0, 0, MACHINE_SIZE, 0),
        *(1, 0, 1, 0, 2 << 20, 2 << 20, 2 << 20),
        *(1, 0, 2, 1, 8 << 20, 2 << 20, 4 << 20),
    )
    pairs = list(zip(numbers[45 : 45 + 2 * words : 2], numbers[46 : 46 + 2 * words : 2], strict=True))
    assert pairs == sorted({**program.words, 0x2000: 5}.items())
    assert numbers[45 + 2 * words :] == (
        *(0, 1, 0, 0, 0, 0, 0),
        *(6, 2, SMM_STEPS, STEPS_END - 32, 8, 0, 0),
        *(7, 2, 0, 0, 0, 0, 0),
    )
    assert compile_scenario(read(text)).digest == compile_scenario(read(text)).digest != program.digest


def test_steps_lie_in_memory_as_four_words(read: Reader) -> None:
    program = compile_scenario(read(with_steps("write: {at: 0x40000000, value: 7}", "read: 0x40001000")))

    assert [program.words[STEPS + 8 * n] for n in range(12)] == [
        *(Op.WRITE, 0x40000000, 7, 0),
        *(Op.READ, 0x40001000, 0, 1),
        *(Op.END, 0, 0, 0),
    ]


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_scenario_compiles_to_what_was_recorded(path: Path) -> None:
    """A recording has the digest of the program that a real kernel ran, bit for bit."""
    scenario = read_scenario(path)
    recorded = RECORDINGS / scenario.kernels[0] / scenario.kinds[0].value / f"{path.stem}.json.gz"

    program = compile_scenario(scenario)

    assert json.loads(gzip.decompress(recorded.read_bytes()))["program"] == program.digest
    assert program.snapshots, "a scenario without a snapshot shows nothing"
    assert len(set(program.snapshots)) == len(program.snapshots)
    assert scenario.title.endswith(".")
