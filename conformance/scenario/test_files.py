"""What is read from a scenario file: what it says, and what stands for what it leaves out."""

from typing import Any

import pytest

from conformance.scenario.short_scenarios import HEAD, Reader, with_steps
from mmu_model.scenario import Mode
from mmu_model.scenario.schema import (
    Access,
    Cpu,
    DirtyLog,
    Host,
    HostPages,
    InNested,
    InSmm,
    Invlpg,
    LoadCr3,
    Mapping,
    Nested,
    Place,
    SetBit,
    SetEntry,
    SetSlot,
    Slot,
    Step,
    Tables,
    TakeSnapshot,
)
from mmu_model.snapshot import MmuKind

FULL = """\
title: All of it.
mode: 5-level
kinds: [shadow, tdp]
kernels: ['6.12']
host: {five_level: true, nx_huge_pages: 1}
cpu: {nx: 0, wp: false, smep: true, smap: 1, maxphyaddr: 36}
manual_dirty_log: true
memory:
  3: {base: 2M, size: 2M, large: true, dirty_log: true}
  31: {base: 0x80000, size: 4K, readonly: true, smm: true}
  7: {base: 511G, size: 1G, shares: 3}
tables:
  main: []
  npt: {npt: []}
nested: {cr3: main, npt: npt}
steps: []
"""


def test_all_that_the_top_can_say(read: Reader) -> None:
    found = read(FULL)

    assert (found.name, found.title, found.mode) == ("some", "All of it.", Mode.LEVEL_5)
    assert found.where.endswith("some.yaml")
    assert found.kinds == (MmuKind.SHADOW, MmuKind.TDP)
    assert found.kernels == ("6.12",)
    assert found.host == Host(five_level=True, nx_huge_pages=True)
    assert found.cpu == Cpu(nx=False, wp=False, smep=True, smap=True, maxphyaddr=36)
    assert found.manual_dirty_log is True
    assert found.slots == (
        Slot(9, 3, 2 << 20, 2 << 20, large=True, dirty_log=True),
        Slot(10, 31, 0x80000, 0x1000, readonly=True, smm=True),
        Slot(11, 7, 511 << 30, 1 << 30, shares=3),
    )
    assert found.tables == (Tables(13, "main", False, ()), Tables(14, "npt", True, ()))
    assert found.nested == Nested(15, "main", "npt")
    assert found.steps == ()


def test_what_is_left_out_has_a_default(read: Reader) -> None:
    found = read("title: Little.\nmode: protected\nsteps: []\n")

    assert found.kinds == tuple(MmuKind)
    assert found.kernels == ("6.1", "6.12")
    assert found.host == Host(five_level=False, nx_huge_pages=False)
    assert found.cpu == Cpu(nx=True, wp=True, smep=False, smap=False, maxphyaddr=None)
    assert (found.manual_dirty_log, found.nested) == (False, None)
    assert (found.slots, found.tables, found.steps) == ((), (), ())
    assert read(FULL.replace("manual_dirty_log: true", "manual_dirty_log: 0")).manual_dirty_log is False
    assert read(FULL.replace(", npt: npt}", "}")).nested == Nested(15, "main", None)


@pytest.mark.parametrize("mode", list(Mode))
def test_a_mode_is_named(read: Reader, mode: Mode) -> None:
    tables = "tables: {main: []}\n" if mode.paging else ""

    assert read(f"title: x\nmode: {mode.value}\n{tables}steps: []\n").mode is mode
    assert mode.paging is (mode.value not in ("real", "protected"))
    assert mode.long is (mode.value in ("4-level", "5-level"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("12", 12),
        ("0x1F", 31),
        ("0X1f", 31),
        ("1_000", 1000),
        ("0xffff_ffff", 0xFFFF_FFFF),
        ("3K", 3 << 10),
        ("3M", 3 << 20),
        ("3G", 3 << 30),
        ("0x10M", 16 << 20),
        ("0xffffffffffffffff", (1 << 64) - 1),
    ],
)
def test_numbers(read: Reader, text: str, value: int) -> None:
    (step,) = read(with_steps(f"write: {{at: 0, value: {text}}}")).steps

    assert isinstance(step, Access)
    assert step.value == value


@pytest.mark.parametrize(
    ("mode", "address"),
    [
        ("4-level", 0x7FFF_FFFF_FFFF),
        ("4-level", 0xFFFF_8000_0000_0000),
        ("4-level", (1 << 64) - 1),
        ("5-level", 0xFF_FFFF_FFFF_FFFF),
        ("5-level", 0xFF00_0000_0000_0000),
        ("pae", 0xFFFF_FFFF),
        ("32-bit", 0xFFFF_FFFF),
    ],
)
def test_the_outermost_addresses(read: Reader, mode: str, address: int) -> None:
    (step,) = read(with_steps(f"invlpg: {address:#x}", head=HEAD.replace("4-level", mode))).steps

    assert step == Invlpg(9, address)


P_W_U = frozenset({"w", "u"})


@pytest.mark.parametrize(
    ("text", "mapping"),
    [
        ("at: 4M", Mapping(7, 4 << 20, 4 << 20, flags=P_W_U)),
        ("at: 4M, to: 8M, count: 1024", Mapping(7, 4 << 20, 8 << 20, 1024, flags=P_W_U)),
        ("at: 4M, every: 8K, count: 3", Mapping(7, 4 << 20, 4 << 20, 3, 0x2000, flags=P_W_U)),
        ("at: 4M, size: 2M, flags: []", Mapping(7, 4 << 20, 4 << 20, size=2 << 20)),
        ("at: 1G, to: 512G, size: 1G", Mapping(7, 1 << 30, 512 << 30, size=1 << 30, flags=P_W_U)),
        (
            "at: 4M, flags: [w, u, nx, a, d, g, pwt, pcd], through: {2: [u], 4: []}",
            Mapping(
                7,
                4 << 20,
                4 << 20,
                flags=frozenset({"w", "u", "nx", "a", "d", "g", "pwt", "pcd"}),
                through=((2, frozenset({"u"})), (4, frozenset())),
            ),
        ),
        (
            "at: 4M, share: {in: main, at: 8M, level: 2}",
            Mapping(7, 4 << 20, share=Place("main", 8 << 20, 2)),
        ),
    ],
)
def test_mappings(read: Reader, text: str, mapping: Mapping) -> None:
    """The size of a page is 4 KiB, and pages are mapped one to one and for everybody, if not told otherwise."""
    text = HEAD.replace("at: 0x40000000, to: 2M, count: 2", text) + "steps: []\n"

    assert read(text).tables[0].mappings == (mapping,)


def entry(**what: Any) -> SetEntry:
    return SetEntry(11, Place("main", 4 << 20, 2), **{"to": None, "table": None, "flags": P_W_U, **what})


def slot(**what: Any) -> SetSlot:
    return SetSlot(11, Slot(**{"line": 11, "id": 1, "base": 2 << 20, "size": 2 << 20, **what}))


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("read: 5", Access(11, "read", 5, value=0x5EED)),
        ("fetch: {at: 5, user: true}", Access(11, "fetch", 5, user=True)),
        ("write: {at: 5, fault: 1}", Access(11, "write", 5, fault=True)),
        ("write: {at: 5, value: 0, size: 1}", Access(11, "write", 5, value=0, size=1)),
        ("write: {at: 5, size: 4, user: false}", Access(11, "write", 5, size=4)),
        ("read: {at: 5, count: 512, every: 1}", Access(11, "read", 5, count=512, every=1)),
        ("read: {at: 5, count: 1}", Access(11, "read", 5, count=1, every=0x1000)),
        ("set_entry: {in: main, at: 4M, level: 2, to: 2M}", entry(to=2 << 20)),
        ("set_entry: {in: main, at: 4M, level: 2, clear: true, flags: []}", entry(flags=frozenset())),
        ("set_entry: {in: main, at: 4M, level: 2, clear: true, quietly: true}", entry(quietly=True)),
        (
            "set_entry: {in: main, at: 4M, level: 2, table: {in: npt, at: 1, level: 3}, quietly: 0}",
            entry(table=Place("npt", 1, 3)),
        ),
        ("cr3: main", LoadCr3(11, "main")),
        ("invlpg: 5", Invlpg(11, 5)),
        *(
            (f"set: {{{bit}: {value}}}", SetBit(11, bit, bool(value)))
            for bit in ("cr0.wp", "cr4.smep", "cr4.smap", "cr4.pge", "efer.nx")
            for value in (0, 1)
        ),
        ("slot: {id: 1}", slot()),
        ("slot: {id: 1, base: 8M}", slot(base=8 << 20)),
        ("slot: {id: 1, size: 1M, smm: true}", slot(size=1 << 20, smm=True)),
        ("slot: {id: 1, dirty_log: true, readonly: true}", slot(dirty_log=True, readonly=True)),
        ("slot: {id: 31, base: 4M, size: 4K}", slot(id=31, base=4 << 20, size=0x1000)),
        (
            "slot: {id: 2, base: 8M, size: 4K, shares: 1, large: true}",
            slot(id=2, base=8 << 20, size=0x1000, shares=1, large=True),
        ),
        ("delete_slot: 1", slot(line=4, size=0)),
        ("get_dirty_log: 1", DirtyLog(11, 1)),
        ("clear_dirty_log: {slot: 1, page: 64, count: 9}", DirtyLog(11, 1, True, 64, 9)),
        ("drop: {slot: 1}", HostPages(11, "drop", 1, 0, 1)),
        ("host_readonly: {slot: 1, page: 511}", HostPages(11, "readonly", 1, 511, 1)),
        ("host_writable: {slot: 1, page: 1, count: 511}", HostPages(11, "writable", 1, 1, 511)),
        ("snapshot: some words", TakeSnapshot(11, "some words")),
        (
            "smm: [read: 1, write: 2, snapshot: x, drop: {slot: 1}, delete_slot: 1]",
            InSmm(
                11,
                (
                    Access(11, "read", 1),
                    Access(11, "write", 2),
                    TakeSnapshot(11, "x"),
                    HostPages(11, "drop", 1, 0, 1),
                    SetSlot(11, Slot(4, 1, 2 << 20, 0)),
                ),
            ),
        ),
        (
            "nested: [fetch: 1, cr3: main, invlpg: 2, get_dirty_log: 1]",
            InNested(11, (Access(11, "fetch", 1), LoadCr3(11, "main"), Invlpg(11, 2), DirtyLog(11, 1))),
        ),
    ],
)
def test_steps(read: Reader, text: str, step: Step) -> None:
    head = HEAD + "  npt: {npt: []}\nnested: {cr3: main}\n"

    assert read(with_steps(text, head=head)).steps == (step,)


def test_what_is_forbidden_inside_is_allowed_again_behind(read: Reader) -> None:
    steps = read(
        with_steps("smm: []", "fetch: {at: 0, user: true}", "smm: [slot: {id: 2, base: 8M, size: 4K}]")
    ).steps

    assert [type(step) for step in steps] == [InSmm, Access, InSmm]


def test_a_slot_that_was_deleted_can_come_back_as_another(read: Reader) -> None:
    """And is an old one again then."""
    steps = ("delete_slot: 1", "slot: {id: 1, base: 8M, dirty_log: true}", "slot: {id: 1, dirty_log: false}")
    (_, again, after) = read(with_steps(*steps)).steps

    assert again == SetSlot(10, Slot(10, 1, 8 << 20, 2 << 20, dirty_log=True))
    assert after == SetSlot(11, Slot(11, 1, 8 << 20, 2 << 20))
    with pytest.raises(ValueError, match="slot 1 can be moved or get other flags"):
        read(with_steps(*steps, "slot: {id: 1, base: 16M, readonly: true}"))


def test_where_a_slot_was_deleted_another_can_be(read: Reader) -> None:
    """Until it comes back itself: KVM knows nothing of what was there."""
    other = "slot: {id: 2, base: 3M, size: 2M}"
    found = read(with_steps("delete_slot: 1", other, "delete_slot: 2", "slot: {id: 1, base: 2M}"))

    assert [type(step) for step in found.steps] == [SetSlot] * 4
    with pytest.raises(ValueError, match=":11: error: slot 1 overlaps slot 2"):
        read(with_steps("delete_slot: 1", other, "slot: {id: 1, base: 4M}"))


def test_slots_may_touch_each_other(read: Reader) -> None:
    text = "  2: {base: 4M, size: 4K}\n  3: {base: 0x1ff000, size: 4K}\n"

    assert len(read(HEAD.replace("tables:", text + "tables:") + "steps: []\n").slots) == 3


def test_steps_are_walked_with_those_within(read: Reader) -> None:
    steps = ("read: 0", "smm: [read: 1, read: 2]", "nested: [read: 3]", "read: 4")
    found = read(with_steps(*steps, head=HEAD + "nested: {cr3: main}\n"))

    assert [step.at for step in found.walk() if isinstance(step, Access)] == [0, 1, 2, 3, 4]
    assert len(found.walk()) == 7
    assert found.uses_smm
    assert not read(with_steps("nested: [read: 3]", head=HEAD + "nested: {cr3: main}\n")).uses_smm
