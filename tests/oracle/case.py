"""A case and an answer, as ``mmu-model walk`` reads and writes them, parsed into numbers.

The oracle has its own reader on purpose: it shares nothing with what it judges.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

CR0_PE = 1 << 0
CR0_WP = 1 << 16
CR0_PG = 1 << 31
CR4_PSE = 1 << 4
CR4_PAE = 1 << 5
CR4_PGE = 1 << 7
CR4_LA57 = 1 << 12
CR4_PCIDE = 1 << 17
CR4_SMEP = 1 << 20
CR4_SMAP = 1 << 21
CR4_PKE = 1 << 22
EFER_LME = 1 << 8
EFER_LMA = 1 << 10
EFER_NXE = 1 << 11

Access = Literal["read", "write", "fetch"]
Paging = Literal["off", "32-bit", "PAE", "4-level", "5-level"]


@dataclass(frozen=True)
class Npt:
    """The host's side of a nested walk: nested CR3 and the host's mode at VMRUN (APM vol. 2, 15.25.3)."""

    ncr3: int
    efer_nxe: bool
    efer_lma: bool
    cr4_pae: bool
    cr4_la57: bool = False

    @property
    def paging(self) -> Paging:
        """The format of the nested tables."""
        if self.efer_lma:
            return "5-level" if self.cr4_la57 else "4-level"
        return "PAE" if self.cr4_pae else "32-bit"


@dataclass(frozen=True)
class Case:
    """One access of one cold processor. Memory is {physical address: (value, size)}; other words are 0."""

    id: str
    maxphyaddr: int
    cr0: int
    cr3: int
    cr4: int
    efer: int
    pkru: int
    ac: bool
    cpl: int
    access: Access
    va: int
    memory: dict[int, tuple[int, int]]
    npt: Npt | None = None

    @property
    def paging(self) -> Paging:
        """The paging mode that the registers select (SDM vol. 3A, 4.1.1)."""
        if not self.cr0 & CR0_PG:
            return "off"
        if not self.cr4 & CR4_PAE:
            return "32-bit"
        if not self.efer & EFER_LMA:
            return "PAE"
        return "5-level" if self.cr4 & CR4_LA57 else "4-level"

    @property
    def mode(self) -> str:
        """The paging mode; where walks are nested, the guest's over the host's."""
        return self.paging if self.npt is None else f"{self.paging} over {self.npt.paging}"

    @property
    def root_table(self) -> int:
        """The address of the top-level table that CR3 holds (SDM vol. 3A, tables 4-3, 4-7 and 4-12)."""
        if self.paging == "32-bit":
            return self.cr3 & 0xFFFF_F000
        if self.paging == "PAE":
            return self.cr3 & 0xFFFF_FFE0
        return self.cr3 & 0xF_FFFF_FFFF_F000

    def to_json(self) -> dict[str, Any]:
        """The case as the walker reads it."""
        case: dict[str, Any] = {
            "id": self.id,
            "maxphyaddr": self.maxphyaddr,
            "cr0": hex(self.cr0),
            "cr3": hex(self.cr3),
            "cr4": hex(self.cr4),
            "efer": hex(self.efer),
            "pkru": hex(self.pkru),
            "ac": int(self.ac),
            "cpl": self.cpl,
            "access": self.access,
            "va": hex(self.va),
            "memory": [[hex(a), hex(value), size] for a, (value, size) in sorted(self.memory.items())],
        }
        if self.npt is not None:
            case["npt"] = {
                "ncr3": hex(self.npt.ncr3),
                "efer_nxe": int(self.npt.efer_nxe),
                "efer_lma": int(self.npt.efer_lma),
                "cr4_pae": int(self.npt.cr4_pae),
                "cr4_la57": int(self.npt.cr4_la57),
            }
        return case

    def line(self) -> str:
        """The case as one line for ``mmu-model walk``."""
        return json.dumps(self.to_json())


@dataclass(frozen=True)
class Answer:
    """What an access came to. A field that does not belong to the result is None."""

    result: str
    pa: int | None = None
    error_code: int | None = None
    cr2: int | None = None
    exit_info_1: int | None = None
    exit_info_2: int | None = None
    changed: dict[int, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The answer as the walker writes it."""
        numbers = ("pa", "error_code", "cr2", "exit_info_1", "exit_info_2")
        answer: dict[str, Any] = {"result": self.result}
        answer |= {name: hex(value) for name in numbers if (value := getattr(self, name)) is not None}
        answer["changed"] = [[hex(address), hex(value)] for address, value in sorted(self.changed.items())]
        return answer


def number(value: int | str) -> int:
    """A number of the format: an integer or a ``"0x…"`` string."""
    return int(value, 0) if isinstance(value, str) else value


def case_from_json(case: dict[str, Any]) -> Case:
    """A case from its JSON object."""
    numbers = {name: number(case[name]) for name in ("maxphyaddr", "cr0", "cr3", "cr4", "efer", "pkru", "va")}
    npt = case.get("npt")
    return Case(
        id=case["id"],
        ac=bool(number(case["ac"])),
        cpl=number(case["cpl"]),
        access=case["access"],
        memory={number(address): (number(value), size) for address, value, size in case["memory"]},
        npt=npt and Npt(number(npt["ncr3"]), *(bool(number(npt.get(name, 0))) for name in _HOST_FLAGS)),
        **numbers,
    )


_HOST_FLAGS = ("efer_nxe", "efer_lma", "cr4_pae", "cr4_la57")


def answer_from_json(answer: dict[str, Any]) -> Answer:
    """An answer from its JSON object; an ``error`` object becomes a result that equals no other."""
    if "error" in answer:
        return Answer(result=f"error: {answer['error']}")
    names = ("pa", "error_code", "cr2", "exit_info_1", "exit_info_2")
    return Answer(
        result=answer["result"],
        changed={number(address): number(value) for address, value in answer.get("changed", [])},
        **{name: number(answer[name]) for name in names if answer.get(name) is not None},
    )
