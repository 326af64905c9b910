"""The oracle can be trusted: it covers every mode and fault, notices any lie, and knows where it departs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from tests.oracle import departures, emulator, frames
from tests.oracle.__main__ import main, report
from tests.oracle.case import (
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_LA57,
    CR4_PAE,
    CR4_PKE,
    CR4_PSE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    Answer,
    Case,
    Npt,
    case_from_json,
    number,
)
from tests.oracle.compare import Tally, compare, expected, minimize, run
from tests.oracle.generator import generate
from tests.oracle.scaffold import WINDOW

SEED = 3
Json = dict[str, Any]

LONG = Case(
    id="long",
    maxphyaddr=40,
    cr0=CR0_PE | CR0_PG | CR0_WP,
    cr3=0x1000,
    cr4=CR4_PAE,
    efer=EFER_LME | EFER_LMA | EFER_NXE,
    pkru=0,
    ac=False,
    cpl=0,
    access="read",
    va=0x1_2345_6789,
    memory={0x1000: (0x2007, 8), 0x2020: (0x3007, 8), 0x38D0: (0x4007, 8), 0x42B0: (0x5007, 8)},
)
GIGABYTE = replace(LONG, memory={0x1000: (0x2007, 8), 0x2020: (0x4000_0087, 8)})
LEGACY = replace(LONG, cr4=CR4_PSE, efer=0, va=0x00C0_1234, memory={0x100C: (0x3007, 4), 0x3004: (0x9007, 4)})
PAE = replace(LONG, efer=EFER_NXE, va=0x00C0_1234, memory={0x1000: (0x3001, 8), 0x3030: (0x80_0000_0087, 8)})
NESTED = replace(
    LONG,
    npt=Npt(0x8000, efer_nxe=True, efer_lma=True, cr4_pae=True),
    memory={**LONG.memory, 0x8000: (0x9007, 8), 0x9000: (0xA007, 8), 0xA000: (0x87, 8)},
)


def truthful(case: Json) -> Json:
    """A walker that never errs: it asks the oracle."""
    return expected(case_from_json(case)).to_json()


@pytest.fixture(scope="module")
def tally() -> Tally:
    """What some thousand cases cover."""
    return run(SEED, range(8_000), truthful)


# The generator


def test_a_case_depends_on_seed_and_number_alone() -> None:
    """Cases come out the same in any order, and differ from each other."""
    forwards = [generate(SEED, index) for index in range(50)]
    backwards = [generate(SEED, index) for index in reversed(range(50))]

    assert forwards == backwards[::-1]
    assert len({case.line() for case in forwards}) == 50
    assert forwards != [generate(SEED + 1, index) for index in range(50)]


def test_a_case_survives_its_own_json() -> None:
    """What the walker reads is the case that the emulator ran."""
    for index in range(200):
        case = generate(SEED, index)
        assert case_from_json(case.to_json()) == case


def test_frames_of_different_kinds_are_apart() -> None:
    """Words of 4 and of 8 bytes never share a frame."""
    backing = {
        base | frame & (1 << unit) - 1
        for unit, bases in frames.BACKING.items()
        for base in bases
        for frame in ((0,) if unit == 12 else frames.GUEST_TABLES)
    }

    assert not backing & set(frames.TABLES)


@pytest.mark.parametrize(
    "mode",
    ["32-bit", "PAE", "4-level", "5-level"],
)
def test_every_bit_of_the_error_code_is_covered(tally: Tally, mode: str) -> None:
    """P, W/R, U/S, RSVD and I/D both ways in each mode, PK where there are protection keys."""
    codes = {code for (m, result, code), _ in tally.coverage.items() if (m, result) == (mode, "page-fault")}
    bits = (0x01, 0x02, 0x04, 0x08, 0x10) + ((0x20,) if "level" in mode else ())

    for bit in bits:
        assert any(code is not None and code & bit for code in codes), f"bit {bit:#x} is never set"
        assert any(code is not None and not code & bit for code in codes), f"bit {bit:#x} is always set"


@pytest.mark.parametrize(
    "mode",
    [
        *("32-bit over 32-bit", "PAE over 32-bit", "32-bit over PAE", "PAE over PAE"),
        *("32-bit over 4-level", "PAE over 4-level", "4-level over 4-level", "5-level over 4-level"),
    ],
)
def test_every_bit_of_exitinfo1_is_covered(tally: Tally, mode: str) -> None:
    """A nested walk succeeds, or fails on either side, and each bit of EXITINFO1 is seen set."""
    results = Counter(result for (m, result, _), _ in tally.coverage.items() if m == mode)
    codes = [code for (m, result, code) in tally.coverage if (m, result) == (mode, "nested-page-fault")]

    assert {"ok", "page-fault", "nested-page-fault"} <= set(results)
    for bit in (0x01, 0x02, 0x04) if mode.endswith("over 32-bit") else (0x01, 0x02, 0x04, 0x08, 0x10):
        assert any(code is not None and code & bit for code in codes), f"bit {bit:#x} is never set"


def test_most_walks_get_somewhere(tally: Tally) -> None:
    """A third or more of the cases end in an access, and few are left out."""
    ended_well = sum(count for (_, result, _), count in tally.coverage.items() if result == "ok")

    assert ended_well > tally.compared / 3
    assert tally.left_out.total() < 0.01 * tally.compared


# The emulator


@pytest.mark.parametrize(
    ("case", "wanted"),
    [
        (LONG, Answer("ok", pa=0x5789)),
        (replace(LONG, cpl=3, access="write"), Answer("ok", pa=0x5789)),
        (replace(LONG, va=1 << 47), Answer("general-protection")),
        (replace(LONG, memory={}), Answer("page-fault", error_code=0, cr2=LONG.va)),
        (replace(LONG, memory={}, access="fetch", cpl=3), Answer("page-fault", error_code=0x14, cr2=LONG.va)),
        (
            replace(LONG, cr4=CR4_PAE | CR4_SMEP, access="fetch"),
            Answer("page-fault", error_code=0x11, cr2=LONG.va),
        ),
        (replace(LONG, cr4=CR4_PAE | CR4_SMAP), Answer("page-fault", error_code=0x01, cr2=LONG.va)),
        (replace(LONG, cr4=CR4_PAE | CR4_SMAP, ac=True), Answer("ok", pa=0x5789)),
        (
            replace(LONG, cr4=CR4_PAE | CR4_PKE, pkru=2, access="write"),
            Answer("page-fault", error_code=0x23, cr2=LONG.va),
        ),
        (
            replace(
                LONG, cr4=CR4_PAE | CR4_LA57, memory=LONG.memory | {0x1000: (0x6007, 8), 0x6000: (0x2007, 8)}
            ),
            Answer("ok", pa=0x5789),
        ),
        (GIGABYTE, Answer("ok", pa=0x6345_6789)),
        (LEGACY, Answer("ok", pa=0x9234)),
        (
            replace(LEGACY, memory={0x100C: (0x01E0_2087, 4)}),
            Answer("page-fault", error_code=0x09, cr2=LEGACY.va),
        ),
        (replace(LEGACY, memory={0x100C: (0x01C0_2087, 4)}), Answer("ok", pa=0x1_01C0_1234)),
        (PAE, Answer("ok", pa=0x80_0000_1234)),
        (replace(LEGACY, cr0=CR0_PE, memory={}), Answer("ok", pa=LEGACY.va)),
        (NESTED, Answer("ok", pa=0x5789)),
        (
            replace(NESTED, access="fetch", memory=NESTED.memory | {0x42B0: (0x4000_5007, 8)}),
            Answer("nested-page-fault", exit_info_1=departures.NPF_FINAL | 0x14, exit_info_2=0x4000_5789),
        ),
        (
            replace(NESTED, memory=NESTED.memory | {0x2020: (0x4000_3007, 8)}),
            Answer(
                "nested-page-fault", exit_info_1=departures.NPF_GUEST_TABLE | 0x06, exit_info_2=0x4000_38D0
            ),
        ),
    ],
)
def test_known_answers(case: Case, wanted: Answer) -> None:
    """Cases whose answers were worked out by hand from the manuals; words that change are checked below."""
    assert replace(expected(case), changed={}) == wanted


def test_accessed_and_dirty_flags_are_seen() -> None:
    """A write sets A on the way and A and D at its end, and nothing else changes."""
    assert expected(replace(LONG, access="write")).changed == {
        0x1000: 0x2027,
        0x2020: 0x3027,
        0x38D0: 0x4027,
        0x42B0: 0x5067,
    }


def test_an_entry_that_the_access_itself_overwrites_is_shown_as_the_walk_left_it() -> None:
    """A table that maps itself: the byte written is the entry's own."""
    onto_itself = replace(LONG, access="write", va=0x1_2345_62B0, memory=LONG.memory | {0x42B0: (0x4007, 8)})

    answer = expected(onto_itself)

    assert answer.pa == 0x42B0
    assert answer.changed[0x42B0] == 0x4067


def test_cases_do_not_disturb_each_other() -> None:
    """The same answers in another order, with one engine for all."""
    cases = [case for index in range(400) if not departures.left_out(case := generate(SEED, index))]
    answers = {case.id: emulator.run(case) for case in cases}

    for case in reversed(cases):
        assert emulator.run(case) == answers[case.id], case.line()


@pytest.mark.parametrize(
    "case",
    [
        replace(LONG, maxphyaddr=36, memory={0x1000: (1 << 38 | 7, 8)}),
        replace(LONG, maxphyaddr=48, memory={0x1000: (1 << 44 | 7, 8)}),
        replace(LONG, memory={WINDOW: (7, 8)}),
        replace(LEGACY, cr0=CR0_PE, va=WINDOW),
        replace(NESTED, npt=Npt(0x8000, efer_nxe=True, efer_lma=True, cr4_pae=True, cr4_la57=True)),
        replace(NESTED, npt=Npt(0x8000, efer_nxe=True, efer_lma=False, cr4_pae=True)),
        replace(NESTED, cr0=CR0_PE, cr4=0, efer=0),
    ],
)
def test_what_the_emulator_has_not_is_refused(case: Case) -> None:
    """No answer is better than a wrong one."""
    with pytest.raises(emulator.UnsupportedError):
        emulator.run(case)


# The departures: each is still there, and put right.


@pytest.mark.parametrize("bit", [1 << 1, 1 << 5, 1 << 8, 1 << 45, 1 << 63])
@pytest.mark.parametrize("index", [0, 3])
def test_reserved_bits_of_pdptes_fault_when_cr3_is_loaded(bit: int, index: int) -> None:
    """Even in a PDPTE that the access does not use; Unicorn looks at the one it uses and high bits only."""
    case = replace(PAE, memory=PAE.memory | {0x1000 + 8 * index: (0x3001 | bit, 8)})

    assert emulator.run(case).result in ("ok", "page-fault")
    assert expected(case) == Answer("general-protection")


def test_no_accessed_flag_from_a_fault_on_a_1_gbyte_page() -> None:
    """Unicorn sets it before it looks at the rights."""
    case = replace(GIGABYTE, cpl=3, memory={0x1000: (0x2007, 8), 0x2020: (0x4000_0083, 8)})

    assert 0x2020 in emulator.run(case).changed
    assert expected(case).changed == {0x1000: 0x2027}


@pytest.mark.parametrize("host", [Npt(0x8000, False, True, True), Npt(0x8000, True, True, True)])
def test_a_nested_fault_has_the_fetch_bit_if_the_host_has_nx(host: Npt) -> None:
    """Unicorn has it always."""
    case = replace(NESTED, npt=host, access="fetch", memory=NESTED.memory | {0x42B0: (0x4000_5007, 8)})

    assert emulator.run(case).exit_info_1 == 0x14
    assert expected(case).exit_info_1 == departures.NPF_FINAL | (0x14 if host.efer_nxe else 0x04)


def test_accessed_and_dirty_flags_of_nested_leaves() -> None:
    """Tables are written to, the page is read; Unicorn sets A for a page of 1 GByte and nothing else."""
    small = {0xA000: (0xB007, 8)} | {0xB000 + 8 * page: (page << 12 | 7, 8) for page in range(8)}
    case = replace(NESTED, memory=NESTED.memory | small)
    tables, page = {0xB008: 0x1067, 0xB010: 0x2067, 0xB018: 0x3067, 0xB020: 0x4067}, {0xB028: 0x5027}

    assert not {*tables, *page} & set(emulator.run(case).changed)
    assert (tables | page).items() <= expected(case).changed.items()
    assert expected(replace(case, access="write")).changed[0xB028] == 0x5067
    assert expected(NESTED).changed[0xA000] == 0xE7  # one nested page for tables and page


def test_flags_of_nested_leaves_are_not_compared_where_an_access_faults() -> None:
    """How far it came is not known."""
    answer = Answer("page-fault", error_code=0, cr2=0, changed={0xA000: 0xE7, 0x9000: 0xA027})

    assert departures.seen(NESTED, answer).changed == {0x9000: 0xA027}
    assert departures.seen(NESTED, replace(answer, result="ok")) == replace(answer, result="ok")


@pytest.mark.parametrize("bit", [1 << 1, 1 << 2, 1 << 5, 1 << 8])
def test_reserved_bits_of_pdptes_fault_in_nested_walks(bit: int) -> None:
    """A PAE guest's raise #PF, a PAE host's a nested page fault; Unicorn overlooks both."""
    host = Npt(0x8000, efer_nxe=True, efer_lma=False, cr4_pae=True)
    memory = {0x1000: (0x3001, 8), 0x3030: (0x4000_0087, 8), 0x8000: (0xA001, 8), 0x8008: (0xA001, 8)}
    case = replace(PAE, npt=host, memory=memory | {0xA000: (0x87, 8)})
    guests = replace(case, memory=case.memory | {0x1000: (0x3001 | bit, 8)})
    hosts = replace(case, memory=case.memory | {0x8000: (0xA001 | bit, 8)})

    assert emulator.run(guests).result == emulator.run(hosts).result == expected(case).result == "ok"
    assert expected(guests) == Answer("page-fault", error_code=0x09, cr2=PAE.va)
    assert replace(expected(hosts), changed={}) == Answer(
        "nested-page-fault", exit_info_1=departures.NPF_GUEST_TABLE | 0x0F, exit_info_2=0x1000
    )


def test_bit_7_of_a_pde_of_a_32_bit_host_is_left_out_where_unicorn_takes_it_for_the_guests() -> None:
    """With the guest's CR4.PSE set it makes a 4-MByte page of what is none."""
    host = Npt(0x8000, efer_nxe=False, efer_lma=False, cr4_pae=False)
    memory = LEGACY.memory | {0x8000: (0x9087, 4), 0x9000: (0x7, 4)}
    memory |= {0x9000 + 4 * page: (page << 12 | 7, 4) for page in range(16)}
    case = replace(LEGACY, npt=host, memory=memory)
    without = replace(case, cr4=0)

    assert departures.left_out(case)
    assert not departures.left_out(without)
    assert expected(without).pa == 0x9234
    assert emulator.run(case).result == "page-fault"


def test_nested_nx_over_guest_tables_is_left_out() -> None:
    """The case is recognized; run all the same, it crashes the emulator, else the rule has had its day."""
    case = replace(NESTED, memory=NESTED.memory | {0xA000: (0x87 | 1 << 63, 8)})
    program = (
        "import json, resource, sys; resource.setrlimit(resource.RLIMIT_CORE, (0, 0));"
        "from tests.oracle import emulator; from tests.oracle.case import case_from_json;"
        "emulator.run(case_from_json(json.loads(sys.argv[1])))"
    )

    crashed = subprocess.run([sys.executable, "-c", program, case.line()], check=False, capture_output=True)

    assert departures.left_out(case)
    assert not departures.left_out(NESTED)
    assert crashed.returncode == -signal.SIGSEGV


# The comparison


def _lies(answer: Json) -> Iterator[tuple[str, Json]]:
    """Every answer that differs in one thing."""
    for name in ("pa", "error_code", "cr2", "exit_info_2"):
        if name in answer:
            yield name, answer | {name: hex(number(answer[name]) ^ 1)}
    if "exit_info_1" in answer:
        for bit in (0, 1, 2, 3, 4):
            yield "exit_info_1", answer | {"exit_info_1": hex(number(answer["exit_info_1"]) ^ 1 << bit)}
        both = departures.NPF_FINAL | departures.NPF_GUEST_TABLE
        yield "exit_info_1", answer | {"exit_info_1": hex(number(answer["exit_info_1"]) | both)}
        yield "exit_info_1", answer | {"exit_info_1": hex(number(answer["exit_info_1"]) & ~both)}
    yield "result", answer | {"result": "general-protection" if answer["result"] == "ok" else "ok"}
    yield "changed", answer | {"changed": [*answer["changed"], ["0x123000", "0x20"]]}
    yield "error", {"error": "cannot"}


def test_every_lie_is_noticed() -> None:
    """Change any one thing in a true answer and the comparison fails; the true answer passes."""
    told: Counter[str] = Counter()
    for index in range(500):
        case = generate(SEED, index)
        if departures.left_out(case):
            continue
        oracle = expected(case)
        assert compare(case, oracle, truthful) is None
        for name, lie in _lies(oracle.to_json()):
            told[name] += 1
            assert compare(case, oracle, _always(lie)) is not None, (name, case.line())

    assert (
        min(told[name] for name in ("pa", "error_code", "cr2", "exit_info_1", "exit_info_2", "changed")) > 20
    )


def _always(answer: Json) -> Callable[[Json], Json]:
    return lambda _: answer


def _forgets(flag: int) -> Callable[[Json], Json]:
    """A walker that loses a flag of the words it changes."""

    def walker(case: Json) -> Json:
        answer = truthful(case)
        values = {number(address): number(value) for address, value, _ in case["memory"]}
        changed = {number(address): number(value) & ~flag for address, value in answer["changed"]}
        return answer | {"changed": [[a, v] for a, v in changed.items() if v != values[a]]}

    return walker


@pytest.mark.parametrize(("name", "flag"), [("accessed", 0x20), ("dirty", 0x40)])
def test_a_walker_with_a_fault_is_found_and_the_case_made_small(name: str, flag: int) -> None:
    """From a whole random case to a handful of words, and the same kind of disagreement."""
    walker = _forgets(flag)

    found = run(SEED, range(300), walker).disagreements

    assert len(found) > 20
    smallest = minimize(found[0], walker)
    assert smallest.kind == found[0].kind
    assert len(smallest.case.memory) <= len(found[0].case.memory)
    assert compare(smallest.case, expected(smallest.case), walker) is not None
    assert smallest.case.line() in str(smallest)


# The command


def test_the_command_compares_and_counts() -> None:
    """Exit 0, every case accounted for."""
    result = CliRunner().invoke(main, ["--cases", "150", "--seed", "1", "--jobs", "1"])

    assert result.exit_code == 0, result.output
    assert "4-level over 4-level" in result.output
    compared = int(result.output.splitlines()[-1].split()[0])
    left_out = [line for line in result.output.splitlines() if line.startswith("left out")]
    assert compared + sum(int(line.rsplit(": ")[-1]) for line in left_out) == 150
    assert result.output.endswith(" 0 disagreements\n")


def test_a_disagreement_is_reported_once_a_kind_as_a_line_for_the_walker(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The line in the report is a case that can be piped into the walker."""
    tally = run(SEED, range(25), lambda case: truthful(case) | {"pa": "0x1"})

    report(tally, lambda case: truthful(case) | {"pa": "0x1"})

    lines = capsys.readouterr().out.splitlines()
    cases = [case_from_json(json.loads(line)) for line in lines if line.startswith("{")]
    assert len(cases) == len(tally.by_kind()) > 3
    assert f"{len(tally.disagreements):,} disagreements" in lines[-1]
