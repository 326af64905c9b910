"""What a scenario file cannot mean is an error that names the file and the line."""

from pathlib import Path

import pytest

from conformance.scenario.short_scenarios import HEAD, Reader, with_steps
from mmu_model.scenario import ScenarioError, compile_scenario, read_scenario

REAL = "title: x\nmode: real\n"
NPT = HEAD + "  npt: {npt: []}\n"
BITS_32 = HEAD.replace("4-level", "32-bit")
PAE = HEAD.replace("4-level", "pae")
LEVEL_5 = HEAD.replace("4-level", "5-level")


def more(line: str, head: str = HEAD) -> str:
    """A scenario without steps, with a line at the top."""
    return f"{head}{line}\nsteps: []\n"


def slot(what: str, number: str = "1") -> str:
    """A scenario that begins with that memory, in line 4."""
    return more("", HEAD.replace("1: {base: 2M, size: 2M}", f"{number}: {{{what}}}"))


def mapped(what: str, head: str = HEAD) -> str:
    """A scenario with one more mapping, in line 8."""
    return more(f"    - {{{what}}}", head)


REFUSED = [
    ("", 1, "empty; a scenario has title, vm and steps"),
    ("title: [", 1, "not YAML"),
    ("title: x\nmode: *nothing\n", 2, "not YAML: found undefined alias"),
    ("title: x\n  mode: real\n", 2, "not YAML"),
    ("\0", 1, "not YAML"),
    ("title: x\nmode: 4-level\n", 1, "'steps' is missing"),
    ("- title\n", 1, "keys and values expected"),
    ("title: [x]\nmode: real\nsteps: []\n", 1, "a single value expected"),
    ("title: x\nmode: 3-level\nsteps: []\n", 2, "'3-level' is none of real, protected"),
    ("title: x\nmode: 4-level\nsteps: []\n", 1, "mode 4-level needs tables"),
    ("title: x\nmode: real\ntables: {main: []}\nsteps: []\n", 3, "mode real has no page tables"),
    ("title: x\ntitle: y\n", 2, "'title' a second time"),
    (more("colour: red"), 8, "unknown key 'colour'; known are title"),
    (HEAD + "steps: {}\n", 8, "a list expected"),
    (HEAD + "steps:\n  - read\n", 9, "keys and values expected"),
    # what there is
    (more("kernels: ['5.4']"), 8, r"'5\.4' is none of 6\.1, 6\.12"),
    (more("kernels: '6.1'"), 8, "a list expected"),
    (more("kinds: [npt]"), 8, "'npt' is none of tdp, direct, shadow"),
    (more("host: {six_level: 1}"), 8, "unknown key 'six_level'; known are five_level, nx_huge_pages"),
    (more("host: {five_level: 2}"), 8, "'2' is none of true, false, 1, 0"),
    (more("cpu: {pge: 1}"), 8, "unknown key 'pge'; known are nx, wp, smep, smap, maxphyaddr"),
    (more("cpu: {nx: yes}"), 8, "'yes' is none of true, false"),
    (more("cpu: {maxphyaddr: 31}"), 8, "31 is not from 0x20 to 0x34"),
    (more("cpu: {maxphyaddr: 53}"), 8, "53 is not from 0x20 to 0x34"),
    (more("manual_dirty_log: maybe"), 8, "'maybe' is none of"),
    # numbers
    (with_steps("read: here"), 9, "'here' is no number"),
    (with_steps("read: 010"), 9, "'010' is no number"),
    (with_steps("read: 0x_"), 9, "'0x_' is no number"),
    (with_steps("read: 0x"), 9, "'0x' is no number"),
    (with_steps("read: -1"), 9, "'-1' is no number"),
    (with_steps("read: 1T"), 9, "'1T' is no number"),
    (with_steps("read: 1.5"), 9, r"'1\.5' is no number"),
    (with_steps("read: ''"), 9, "'' is no number"),
    (with_steps("read: 0x10000000000000000"), 9, "is not from 0x0 to 0xffffffffffffffff"),
    (with_steps("read: [1]"), 9, "a single value expected"),
    # addresses
    (with_steps("read: 0x800000000000"), 9, "0x800000000000 is not canonical"),
    (with_steps("read: 0xffff7fffffffffff"), 9, "is not canonical"),
    (with_steps("read: {at: 0x7ffffffff000, count: 2}"), 9, "0x800000000000 is not canonical"),
    (with_steps("read: {at: 0xfffffffffffff000, count: 2}"), 9, "0x10000000000000000 is not canonical"),
    (with_steps("invlpg: 0x800000000000"), 9, "is not canonical"),
    (with_steps("read: 0x100000000000000", head=LEVEL_5), 9, "is not canonical"),
    (with_steps("read: 0x100000000", head=PAE), 9, "0x100000000 has more than 32 bits"),
    (with_steps("read: {at: 0xfffff000, count: 2}", head=BITS_32), 9, "0x100000000 has more than 32 bits"),
    (REAL + "steps:\n  - read: 4G\n", 4, "0x100000000 has more than 32 bits"),
    # memory
    (slot("base: 2M, size: 2M", "0"), 4, "'0' is no number of a memslot from 1 to 31"),
    (slot("base: 2M, size: 2M", "32"), 4, "'32' is no number of a memslot"),
    (slot("base: 2M, size: 2M", "one"), 4, "'one' is no number of a memslot"),
    (slot("base: 2M, size: 2M}\n  01: {base: 8M, size: 2M"), 5, "slot 1 a second time"),
    (slot("base: 2M"), 4, "'size' is missing"),
    (slot("size: 2M"), 4, "'base' is missing"),
    (slot("base: 2M, size: 0"), 4, "slot 1 is empty"),
    (slot("base: 2M, size: 2G"), 4, "2G is not from 0x0 to 0x40000000"),
    (slot("base: 1023G, size: 2M"), 4, "1023G is not from 0x0 to 0x8000000000"),
    (slot("base: 2M, size: 0x1001"), 4, "0x1001 is no multiple of 0x1000"),
    (slot("base: 508K, size: 2M"), 4, "slot 1 begins below 0x80000; that part is the interpreter's"),
    (slot("base: 2M, size: 2M, shares: 1"), 4, "no slot 1"),
    (slot("base: 2M, size: 2M, dirty: 1"), 4, "unknown key 'dirty'; known are base, size"),
    (slot("base: 2M, size: 2M}\n  2: {base: 0x3ff000, size: 4K"), 5, "slot 2 overlaps slot 1"),
    (slot("base: 2M, size: 2M}\n  2: {base: 0x1ff000, size: 8K"), 5, "slot 2 overlaps slot 1"),
    # page tables
    (mapped("to: 2M"), 8, "'at' is missing"),
    (mapped("at: 0x80000001"), 8, "0x80000001 is no multiple of the page size"),
    (mapped("at: 0x80001000, size: 2M"), 8, "0x80001000 is no multiple of the page size"),
    (mapped("at: 0x80000000, to: 0x201000, size: 2M"), 8, "0x201000 is no multiple of 0x200000"),
    (mapped("at: 0x80000000, every: 4K, size: 2M"), 8, "0x1000 is no multiple of 0x200000"),
    (mapped("at: 0x80000000, size: 4M"), 8, "'4M' is none of 4K, 2M, 1G"),
    (mapped("at: 0x80000000, size: 2M", BITS_32), 8, "'2M' is none of 4K, 4M"),
    (mapped("at: 0x80000000, size: 1G", PAE), 8, "'1G' is none of 4K, 2M"),
    (mapped("at: 0x80000000, count: 0"), 8, "0 is not from 0x1 to 0x400"),
    (mapped("at: 0x80000000, count: 1025"), 8, "1025 is not from 0x1 to 0x400"),
    (mapped("at: 0x80000000, flags: [x]"), 8, "'x' is none of w, u, nx, a, d, g, pwt, pcd"),
    (mapped("at: 0x80000000, flags: w"), 8, "a list expected"),
    (mapped("at: 0x80000000, flags: [nx]", BITS_32), 8, "entries of 32-bit paging have no room for nx"),
    (mapped("at: 0x80000000, through: {5: [w]}"), 8, "'5' is no level of 4-level paging"),
    (mapped("at: 0x80000000, through: {0: [w]}"), 8, "'0' is no level of 4-level paging"),
    (mapped("at: 0x80000000, through: {3: [w]}", BITS_32), 8, "'3' is no level of 32-bit paging"),
    (mapped("at: 0x7ffffffff000, count: 2, to: 2M"), 8, "0x800000000000 is not canonical"),
    (mapped("at: 0xfffff000, count: 2, every: 4K, to: 2M", PAE), 8, "has more than 32 bits"),
    (mapped("at: 0x80000000, to: 4G", BITS_32), 8, "0x100000000 is too high for an entry to map it"),
    (mapped("at: 0x80000000, to: 0xfffff000, count: 2", BITS_32), 8, "0x100000000 is too high"),
    (mapped("at: 0x80000000, to: 0x8000001000"), 8, "0x8000001000 is too high"),
    (mapped("at: 0xffff800000000000"), 8, "0xffff800000000000 is too high"),
    (mapped("at: 0x80000000, to: 2M, share: {in: main, at: 0, level: 2}"), 8, "unknown key 'to'"),
    (mapped("at: 0x80000000, share: {in: other, at: 0, level: 2}"), 8, "no tables 'other'"),
    (mapped("at: 0x80000000, share: {in: main, at: 0}"), 8, "'level' is missing"),
    (more("  npt: {ept: []}"), 8, "unknown key 'ept'; known are npt"),
    # the nested guest
    (more("nested: {cr3: main, npt: main}"), 8, "no nested page table 'main'"),
    (more("nested: {cr3: other}"), 8, "no address space 'other'"),
    (more("nested: {cr3: npt}", NPT), 9, "no address space 'npt'"),
    (more("nested: {cr3: main, npt: other}", NPT), 9, "no nested page table 'other'"),
    (more("nested: {npt: npt}", NPT), 9, "'cr3' is missing"),
    # steps
    (with_steps("jump: 3"), 9, "unknown step 'jump'; known are read, write"),
    (with_steps("{read: 1, write: 2}"), 9, "a step is one key and its value"),
    (with_steps("{}"), 9, "a step is one key and its value"),
    (with_steps("read: {at: 1, at: 2}"), 9, "'at' a second time"),
    (with_steps("read: {at: 1, colour: 2}"), 9, "unknown key 'colour'"),
    (with_steps("read: {at: 1, value: 2}"), 9, "unknown key 'value'; known are at, user"),
    (with_steps("fetch: {at: 1, size: 4}"), 9, "unknown key 'size'"),
    (with_steps("write: {at: 1, size: 8}"), 9, "'8' is none of 1, 4"),
    (with_steps("read: {at: 1, count: 513}"), 9, "513 is not from 0x1 to 0x200"),
    (with_steps("read: {at: 1, count: 0}"), 9, "0 is not from 0x1 to 0x200"),
    (with_steps("read: {at: 1, every: 0}"), 9, "0 is not from 0x1"),
    (REAL + "steps:\n  - read: {at: 0, fault: true}\n", 4, "nothing faults without paging"),
    (REAL + "steps:\n  - read: {at: 0, user: true}\n", 4, "user mode is only possible with paging, outside"),
    (with_steps("smm: [read: {at: 0, user: true}]"), 9, "user mode is only possible with paging, outside"),
    (with_steps("cr3: other"), 9, "no address space 'other'"),
    (with_steps("cr3: npt", head=NPT), 10, "no address space 'npt'"),
    (with_steps("set: {cr4.pae: 0}"), 9, r"bits are cr0\.wp"),
    (with_steps("set: {cr0.wp: 0, cr4.smep: 1}"), 9, "one bit and its value expected"),
    (with_steps("set: {}"), 9, "one bit and its value expected"),
    (with_steps("set: {cr0.wp: 2}"), 9, "'2' is none of true, false"),
    (with_steps("nested: []"), 9, "nested steps need the key 'nested' at the top"),
    (with_steps("smm: [cr3: main]"), 9, "'cr3' is not possible in here; possible are read, write, snapshot"),
    (with_steps("smm: [fetch: 0]"), 9, "'fetch' is not possible in here"),
    (with_steps("smm: [smm: []]"), 9, "'smm' is not possible in here"),
    (
        with_steps("nested: [set: {cr0.wp: 0}]", head=HEAD + "nested: {cr3: main}\n"),
        10,
        "'set' is not possible",
    ),
    (with_steps("set_entry: {in: main, at: 0, level: 1}"), 9, "one of 'to', 'table' and 'clear'"),
    (with_steps("set_entry: {in: main, at: 0, level: 1, to: 0, clear: 1}"), 9, "one of 'to', 'table' and"),
    (with_steps("set_entry: {in: main, at: 0, level: 7, clear: true}"), 9, "'7' is no level of 4-level"),
    (with_steps("set_entry: {in: main, at: 0, level: 4, to: 0}"), 9, "no pages at level 4"),
    (with_steps("set_entry: {in: main, at: 0, level: 3, to: 0}", head=PAE), 9, "no pages at level 3"),
    (with_steps("set_entry: {in: main, at: 0, level: 1, to: 0x80000000800}"), 9, "no multiple of 0x1000"),
    (with_steps("set_entry: {in: main, at: 0, level: 1, to: 4G}", head=BITS_32), 9, "4G|0x100000000 is too"),
    (with_steps("set_entry: {in: other, at: 0, level: 1, clear: 1}"), 9, "no tables 'other'"),
    (REAL + "steps:\n  - set_entry: {in: main, at: 0, level: 1, clear: 1}\n", 4, "no tables 'main'"),
    (with_steps("drop: {slot: 2}"), 9, "no slot 2"),
    (with_steps("drop: {}"), 9, "'slot' is missing"),
    (with_steps("drop: {slot: 1, page: 512}"), 9, "512 is not from 0x0 to 0x1ff"),
    (with_steps("drop: {slot: 1, page: 511, count: 2}"), 9, "2 is not from 0x1 to 0x1"),
    (with_steps("drop: {slot: 1, count: 0}"), 9, "0 is not from 0x1 to 0x200"),
    (with_steps("get_dirty_log: 2"), 9, "no slot 2"),
    (with_steps("delete_slot: 0"), 9, "no slot 0"),
    (with_steps("clear_dirty_log: {slot: 1, page: 32, count: 64}"), 9, "0x20 is no multiple of 0x40"),
    (with_steps("clear_dirty_log: {slot: 1, page: 0, count: 0}"), 9, "0 is not from 0x1"),
    (with_steps("clear_dirty_log: {slot: 1, page: 0}"), 9, "'count' is missing"),
    (with_steps("slot: {base: 8M, size: 1M}"), 9, "'id' is missing"),
    (with_steps("slot: {id: 0, base: 8M, size: 1M}"), 9, "0 is not from 0x1 to 0x1f"),
    (with_steps("slot: {id: 32, base: 8M, size: 1M}"), 9, "32 is not from 0x1 to 0x1f"),
    (with_steps("slot: {id: 2, base: 3M, size: 1M}"), 9, "slot 2 overlaps slot 1"),
    (with_steps("slot: {id: 2, base: 4K, size: 1M}"), 9, "slot 2 begins below 0x80000"),
    (with_steps("slot: {id: 2, base: 0x800100, size: 1M}"), 9, "0x800100 is no multiple of 0x1000"),
    (with_steps("slot: {id: 2, base: 8M, size: 0}"), 9, "slot 2 is empty"),
    (with_steps("slot: {id: 2, base: 8M}"), 9, "'size' is missing"),
    (with_steps("slot: {id: 1, large: true}"), 9, "unknown key 'large'"),
    (with_steps("slot: {id: 1, shares: 1}"), 9, "unknown key 'shares'"),
    (with_steps("slot: {id: 1, base: 8M, dirty_log: true}"), 9, "can be moved or get other flags, one after"),
]


@pytest.mark.parametrize(("text", "line", "message"), REFUSED)
def test_what_a_line_cannot_mean_is_an_error_there(
    read: Reader, tmp_path: Path, text: str, line: int, message: str
) -> None:
    with pytest.raises(ScenarioError, match=message) as refused:
        read(text)
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
            "    - {at: 0x80000000, share: {in: main, at: 0x40200000, level: 2}}\n",
            8,
            "points to no table there",
        ),
        (
            "    - {at: 0x80000000, size: 2M}\n    - {at: 0xc0000000, share: {in: main, at: 0x80000000, level: 2}}\n",
            9,
            "points to no table there",
        ),
        (
            "    - {at: 0x80000000, size: 1G}\n    - {at: 0xc0000000, share: {in: main, at: 0x80000000, level: 2}}\n",
            9,
            "no table at level 2 there",
        ),
        (
            "    - {at: 0x40000000, share: {in: main, at: 0x40000000, level: 2}}\n",
            8,
            "0x40000000 is mapped a second time",
        ),
        (
            "    - {at: 0x80000000, size: 2M}\n    - {at: 0x80001000, to: 4M}\n",
            9,
            "lies in a large page mapped before",
        ),
    ],
)
def test_page_tables_that_cannot_be_built_are_an_error(
    read: Reader, mappings: str, line: int, message: str
) -> None:
    with pytest.raises(ScenarioError, match=message) as refused:
        compile_scenario(read(HEAD + mappings + "steps: []\n"))
    assert f":{line}: error: " in str(refused.value)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            "set_entry: {in: main, at: 0xc0000000, level: 1, clear: true}",
            "main has no table at level 1 there",
        ),
        ("set_entry: {in: main, at: 0, level: 2, table: {in: main, at: 0, level: 1}}", "points to no table"),
        ("write: {at: 0x40000000, size: 4, user: true}", "size is for writes of the supervisor"),
    ],
)
def test_steps_that_cannot_be_done_are_an_error(read: Reader, step: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=message) as refused:
        compile_scenario(read(with_steps(step)))
    assert ":9: error: " in str(refused.value)


def test_too_many_steps_are_an_error(read: Reader) -> None:
    """They have 48 KiB, 32 bytes each, the end of the list and the lists within included."""
    reads = ["read: {at: 0x40000000, count: 512, every: 1}"] * 2

    compile_scenario(read(with_steps(*reads, "read: {at: 0x40000000, count: 511, every: 1}")))
    with pytest.raises(ScenarioError, match="too many steps; make two scenarios of it"):
        compile_scenario(read(with_steps(*reads, "read: {at: 0x40000000, count: 512, every: 1}")))
    last = ["read: {at: 0, count: 509, every: 1}", "smm: [read: 0]"]
    compile_scenario(read(with_steps(*reads, last[0].replace("509", "508"), last[1])))
    with pytest.raises(ScenarioError, match="too many steps"):
        compile_scenario(read(with_steps(*reads, *last)))


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"none\.yaml:1: error: cannot read it: No such file"):
        read_scenario(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_bytes(b"title: \xff\n")
    with pytest.raises(ScenarioError, match=r"bad\.yaml:1: error: not UTF-8 text"):
        read_scenario(tmp_path / "bad.yaml")
