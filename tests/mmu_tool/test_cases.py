"""Walks as JSON: every result once, every complaint once."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from mmu_tool.cases import CaseError, answer
from mmu_tool.cli import main
from mmu_tool.walk_filter import answer_line, answer_lines

Case = dict[str, Any]


def case(**changes: Any) -> Case:
    """A user-mode write through 4-level tables that succeeds."""
    return {
        "id": 1,
        "maxphyaddr": 46,
        "cr0": "0x80010001",
        "cr3": 0x1000,
        "cr4": "0x20",
        "efer": "0xd00",
        "pkru": 0,
        "ac": 0,
        "cpl": 3,
        "access": "write",
        "va": "0x5678",
        "memory": [["0x1000", "0x2007", 8], [0x2000, 0x3007, 8], [0x3000, 0x4007, 8], [0x4028, 0x9007, 8]],
        **changes,
    }


def changed_word(address: int, value: int) -> Case:
    """The case with another value of one word."""
    words = [word for word in case()["memory"] if int(str(word[0]), 0) != address]
    return case(memory=[*words, [address, value, 8]])


IDENTITY_EPT = [[0xA000, 0xB007, 8], [0xB000, 0x87 | 6 << 3, 8]]


def test_ok() -> None:
    assert answer(case()) == {
        "id": 1,
        "result": "ok",
        "pa": "0x9678",
        "changed": [["0x1000", "0x2027"], ["0x2000", "0x3027"], ["0x3000", "0x4027"], ["0x4028", "0x9067"]],
    }


def test_32_bit_entries_have_4_bytes() -> None:
    memory = [[0x1000, 0x2007, 4], [0x2014, 0x9007, 4], [0x2010, 0xFFFF_FFFF, 4]]
    reply = answer(case(cr4=0, efer=0, memory=memory))
    assert reply["pa"] == "0x9678"
    assert reply["changed"] == [["0x1000", "0x2027"], ["0x2014", "0x9067"]]


def test_page_fault() -> None:
    reply = answer(changed_word(0x4028, 0x9005))
    assert (reply["result"], reply["error_code"], reply["cr2"]) == ("page-fault", "0x7", "0x5678")
    assert reply["changed"] == [["0x1000", "0x2027"], ["0x2000", "0x3027"], ["0x3000", "0x4027"]]


def test_general_protection_by_address() -> None:
    assert answer(case(va="0x8000000000000000")) == {"id": 1, "result": "general-protection", "changed": []}


def test_general_protection_by_pdpte() -> None:
    assert answer(case(efer=0))["result"] == "general-protection"


def test_paging_off() -> None:
    assert answer(case(cr0=1, efer=0, memory=[]))["pa"] == "0x5678"


def test_protection_keys() -> None:
    keyed = {"cr4": 0x20 | 1 << 22, "pkru": 0x8}
    words = [*case()["memory"][:3], [0x4028, 0x9007 | 1 << 59, 8]]
    assert answer(case(memory=words, **keyed))["error_code"] == "0x27"
    assert answer(case(memory=words, cr4=0x20 | 1 << 24, pkrs=0x8))["result"] == "ok"


NPT = {"ncr3": 0xA000, "efer_nxe": 1, "efer_lma": 1, "cr4_pae": 1, "cr4_la57": 0}


def test_nested_page_fault() -> None:
    reply = answer(case(npt=NPT))
    assert reply == {
        "id": 1,
        "result": "nested-page-fault",
        "exit_info_1": hex(1 << 33 | 6),
        "exit_info_2": "0x1000",
        "changed": [],
    }


def test_nested_ok() -> None:
    identity = [[0xA000, 0xB007, 8], [0xB000, 0x87, 8]]
    assert answer(case(npt=NPT, memory=case()["memory"] + identity))["pa"] == "0x9678"


def test_nested_4_mbyte_pages() -> None:
    npt = {**NPT, "efer_lma": 0, "cr4_pae": 0}
    memory = [*case()["memory"], [0xA000, 0x87, 4]]
    assert answer(case(npt={**npt, "cr4_pse": 1}, memory=memory))["pa"] == "0x9678"
    assert answer(case(npt=npt, memory=memory))["result"] == "nested-page-fault"


EPT = {"eptp": 0xA000 | 3 << 3 | 6, "exec_only": 0}


def test_ept_ok() -> None:
    reply = answer(case(ept=EPT, memory=case()["memory"] + IDENTITY_EPT))
    assert reply["pa"] == "0x9678"


def test_ept_violation() -> None:
    reply = answer(case(ept=EPT))
    assert (reply["result"], reply["gpa"], reply["exit_qualification"]) == ("ept-violation", "0x1000", "0x81")


def test_ept_misconfiguration() -> None:
    reply = answer(case(ept=EPT, memory=[*case()["memory"], [0xA000, 0xB002, 8]]))
    assert reply == {"id": 1, "result": "ept-misconfiguration", "gpa": "0x1000", "changed": []}


def without(key: str) -> Case:
    return {name: value for name, value in case().items() if name != key}


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (without("va"), "missing va"),
        (case(colour="red"), "unknown colour"),
        (case(maxphyaddr=53), "maxphyaddr is 53"),
        (case(maxphyaddr="46"), "maxphyaddr"),
        (case(va=-1), "va is -1"),
        (case(va=1 << 64), "va is 18446744073709551616"),
        (case(va="1234"), "va is '1234'"),
        (case(va="0xzz"), "va is '0xzz'"),
        (case(va=1.5), "va is 1.5"),
        (case(va=True), "va is True"),
        (case(va=None), "va is None"),
        (case(cpl=1), "cpl is 1"),
        (case(ac=2), "ac is 2"),
        (case(access="execute"), "access is 'execute'"),
        (case(access=["read"]), "access is"),
        (case(pkru=1 << 32), "PKRU"),
        (case(cr0="0x80000000"), "CR0.PG without CR0.PE"),
        (case(cr4=0), "EFER.LMA without CR4.PAE"),
        (case(cr3=1 << 50), "CR3 has bits above 45"),
        (case(efer=0, cr4=0, va=1 << 32), "more than the 32 bits"),
        (case(memory={}), "memory must be a list"),
        (case(memory=[[0x1000, 1]]), r"memory\[0\] must be"),
        (case(memory=[[0x1000, 1, 2]]), r"memory\[0\] size is 2"),
        (case(memory=[[0x1001, 1, 8]]), "not a multiple of 8"),
        (case(memory=[[0x1002, 1, 4]]), "not a multiple of 4"),
        (case(memory=[[1 << 46, 1, 8]]), r"not below 2\*\*46"),
        (case(memory=[[0x1000, 1 << 32, 4]]), r"memory\[0\] value"),
        (case(memory=[[0x1000, 1, 8], [0x1000, 2, 8]]), "0x1000 is listed before"),
        (case(memory=[[0x1000, 1, 8], [0x1004, 2, 4]]), "0x1004 is listed before"),
        (case(npt={}), "npt: missing"),
        (case(npt=3), "npt must be an object"),
        (case(npt={**NPT, "cr4_pae": 0}), "no host has these registers"),
        (case(npt={**NPT, "efer_nxe": "yes"}), "npt.efer_nxe is 'yes'"),
        (case(npt={**NPT, "x": 0}), "npt: unknown x"),
        (case(npt=NPT, ept=EPT), "npt and ept at once"),
        (case(ept={"eptp": 6}), "ept: missing exec_only"),
        (case(ept={"eptp": 6, "exec_only": 0}), "walk length"),
        ([], "case must be an object"),
        (7, "case must be an object"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_case(bad: Any, complaint: str) -> None:
    with pytest.raises(CaseError, match=complaint):
        answer(bad)
    reply = answer_line(json.dumps(bad).encode())
    assert list(reply) == ["id", "error"]
    assert reply["id"] == (1 if isinstance(bad, dict) else None)


def test_a_word_listed_twice_with_one_value_is_no_harm() -> None:
    words = case()["memory"]
    assert answer(case(memory=[*words, [0x1000, 0x2007, 4], *words]))["result"] == "ok"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff{}", "not UTF-8"),
        (b'{"id": 1, "id": 2}', "the key id stands there twice"),
        (b"[" * 100_000, "recursion"),
        (b'{"id": ' + b"9" * 5000 + b"}", "not JSON"),
    ],
)
def test_lines_that_are_no_json(line: bytes, complaint: str) -> None:
    assert complaint in answer_line(line)["error"]


def test_the_other_lines_are_answered_in_order() -> None:
    good = [json.dumps(case(id=number)) for number in range(3)]
    lines = [good[0], "nonsense", good[1], '{"id": "x"}', good[2]]
    out = io.StringIO()
    assert answer_lines([line.encode() + b"\n" for line in lines], out) == [2, 4]
    replies = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [reply["id"] for reply in replies] == [0, None, 1, "x", 2]


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(sorted(case())), inner),
    )
)
def test_no_json_makes_it_raise(value: Any) -> None:
    assert set(answer_line(json.dumps(value).encode())) == {"id", "error"}


@given(st.data())
def test_no_change_of_a_case_makes_it_raise(data: st.DataObject) -> None:
    """One key of a good case gets a value of some other key, or a random one."""
    good = case(npt=NPT)
    key = data.draw(st.sampled_from(sorted(good)))
    good[key] = data.draw(st.sampled_from(list(good.values())) | st.integers(-1, 2**65) | st.text())
    assert answer_line(json.dumps(good).encode()).keys() >= {"id"}


def run(arguments: list[str], text: str | None = None) -> tuple[int, list[Any], str]:
    result = CliRunner().invoke(main, arguments, input=text)
    return result.exit_code, [json.loads(line) for line in result.stdout.splitlines()], result.stderr


def test_the_command_reads_a_file_or_standard_input(tmp_path: Path) -> None:
    file = tmp_path / "cases"
    file.write_text(json.dumps(case()) + "\n")
    expected = (0, [answer(case())], "")
    assert run(["walk", str(file)]) == expected
    assert run(["walk"], json.dumps(case())) == expected


def test_the_command_exits_with_2_after_a_bad_line() -> None:
    code, replies, errors = run(["walk"], "nonsense\n" + json.dumps(case()))
    assert (code, replies[1]) == (2, answer(case()))
    assert errors == "standard input:1: error: no case, as its answer says; 1 such lines in all\n"


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir], ids=["missing", "a directory"])
def test_a_file_that_cannot_be_read(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "cases")
    code, replies, errors = run(["walk", str(tmp_path / "cases")])
    assert (code, replies) == (2, [])
    assert errors.startswith(f"{tmp_path / 'cases'}: error: ")
    assert len(errors.splitlines()) == 1
