"""One page walk as plain data in, plain data out, so that any other implementation can be asked the same.

A case is a dictionary (of JSON) with exactly these keys; numbers are integers or strings `"0x..."`:

    id             anything; the answer repeats it
    maxphyaddr     32 to 52
    cr0 cr3 cr4 efer pkru    the registers; the paging mode follows from them. `pkrs` may be left out
    ac             EFLAGS.AC: 0 or 1
    cpl            0 or 3
    access         "read", "write" or "fetch"
    va             the linear address
    memory         [[physical address, value, size 4 or 8], ...]; what is not listed is 0
    npt            a guest under NPT: {ncr3, efer_nxe, efer_lma, cr4_pae, cr4_la57}, the last four the
    host's, 0 or
                   1. `cr4_pse` may be left out: 4-MByte nested pages for a host with 32-bit paging
    ept            or a guest under EPT: {eptp, exec_only}

The answer has `id`, `result` and what belongs to that result, see :func:`answer`. Every case is a cold walk:
nothing is cached, and with PAE paging CR3 has just been loaded.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from mmu_model.hardware.access import Kind, access
from mmu_model.hardware.ept import ExtendedPaging
from mmu_model.hardware.faults import (
    EptMisconfiguration,
    EptViolation,
    Fault,
    GeneralProtection,
    NestedPageFault,
    PageFault,
)
from mmu_model.hardware.memory import PhysicalMemory
from mmu_model.hardware.nested import SecondDimension, walk_nested
from mmu_model.hardware.npt import NestedPaging
from mmu_model.hardware.pdptes import load_paging
from mmu_model.hardware.registers import (
    CR4_LA57,
    CR4_PAE,
    CR4_PSE,
    EFER_LMA,
    EFER_NXE,
    Registers,
)
from mmu_model.hardware.walk import walk

_REGISTERS = ("cr0", "cr3", "cr4", "efer", "pkru")
_REQUIRED = {"id", "maxphyaddr", *_REGISTERS, "ac", "cpl", "access", "va", "memory"}
_OPTIONAL = {"pkrs", "npt", "ept"}
_NPT_CR4 = {"cr4_pae": CR4_PAE, "cr4_la57": CR4_LA57, "cr4_pse": CR4_PSE}
_NPT_EFER = {"efer_nxe": EFER_NXE, "efer_lma": EFER_LMA}

_LOW_HALF = 0xFFFF_FFFF

T = TypeVar("T")
Case = Mapping[str, Any]
Answer = dict[str, Any]


class CaseError(ValueError):
    """This is no case; the message says what is wrong with which key."""


def answer(case: Case) -> Answer:
    """Do the walk that a case describes.

    Returns
    -------
    dict
        `id`; `result`; with result `ok` also `pa`; with `page-fault` `error_code` and `cr2`; with
        `nested-page-fault` `exit_info_1` and `exit_info_2`; with `ept-violation` `gpa` and
        `exit_qualification`; with `ept-misconfiguration` `gpa`; with `general-protection` nothing. Always
        `changed`: [[physical address, new value], ...], the entries in which flags were set, by address.
        Numbers are strings `"0x..."`.

    Raises
    ------
    CaseError
        It describes no walk.

    """
    _check_keys("case", case, _REQUIRED, _OPTIONAL)
    memory = _memory(case)
    registers = _registers(case)
    host = _second_dimension(case)
    how = access(_one_of("access", case["access"], [kind.value for kind in Kind], Kind), user=_cpl(case) == 3)
    va = _number("va", case["va"], 64)
    if not registers.mode.is_long and va >> 32:
        raise CaseError(f"va {va:#x} has more than the 32 bits of a linear address outside long mode")
    try:
        paging = load_paging(memory, registers, host)
        if host is None:
            pa = walk(memory, paging, how, va).address
        else:
            pa = walk_nested(memory, paging, host, how, va).host.address
        outcome = {"result": "ok", "pa": hex(pa)}
    except Fault as fault:
        outcome = _REPORTS[type(fault)](fault)
    return {"id": case["id"], **outcome, "changed": memory.changed()}


_REPORTS: dict[type[Fault], Callable[[Any], Answer]] = {
    PageFault: lambda fault: {
        "result": "page-fault",
        "error_code": hex(fault.error_code),
        "cr2": hex(fault.cr2),
    },
    GeneralProtection: lambda _: {"result": "general-protection"},
    NestedPageFault: lambda fault: {
        "result": "nested-page-fault",
        "exit_info_1": hex(fault.exit_info_1),
        "exit_info_2": hex(fault.exit_info_2),
    },
    EptViolation: lambda fault: {
        "result": "ept-violation",
        "gpa": hex(fault.gpa),
        "exit_qualification": hex(fault.exit_qualification),
    },
    EptMisconfiguration: lambda fault: {"result": "ept-misconfiguration", "gpa": hex(fault.gpa)},
}


class _CaseMemory(PhysicalMemory):
    """Remembers which entries a walk has changed."""

    def __init__(self, maxphyaddr: int) -> None:
        super().__init__(maxphyaddr)
        self._changed: set[tuple[int, int]] = set()

    def compare_exchange(self, address: int, expected: int, value: int, size: int = 8) -> bool:
        self._changed.add((address, size))
        return super().compare_exchange(address, expected, value, size)

    def changed(self) -> list[list[str]]:
        return [[hex(address), hex(self.read(address, size))] for address, size in sorted(self._changed)]


def _registers(case: Case) -> Registers:
    values = {name: _number(name, case[name], 64) for name in _REGISTERS}
    values["pkrs"] = _number("pkrs", case.get("pkrs", 0), 64)
    try:
        return Registers(**values, ac=_flag("ac", case["ac"]), maxphyaddr=case["maxphyaddr"])
    except GeneralProtection as fault:
        raise CaseError(f"no processor has these registers: {fault}") from None


def _second_dimension(case: Case) -> SecondDimension | None:
    if "npt" in case and "ept" in case:
        raise CaseError("npt and ept at once; a guest has one of them")
    if "npt" in case:
        return _npt(case["npt"], case["maxphyaddr"])
    if "ept" in case:
        return _ept(case["ept"], case["maxphyaddr"])
    return None


def _npt(npt: Any, maxphyaddr: int) -> NestedPaging:
    _check_keys("npt", npt, {"ncr3", *_NPT_EFER, *_NPT_CR4} - {"cr4_pse"}, {"cr4_pse"})
    cr4 = sum(bit for name, bit in _NPT_CR4.items() if _flag(f"npt.{name}", npt.get(name, 0)))
    efer = sum(bit for name, bit in _NPT_EFER.items() if _flag(f"npt.{name}", npt[name]))
    try:
        return NestedPaging(_number("npt.ncr3", npt["ncr3"], 64), cr4=cr4, efer=efer, maxphyaddr=maxphyaddr)
    except GeneralProtection as fault:
        raise CaseError(f"npt: no host has these registers: {fault}") from None


def _ept(ept: Any, maxphyaddr: int) -> ExtendedPaging:
    _check_keys("ept", ept, {"eptp", "exec_only"}, set())
    eptp, exec_only = _number("ept.eptp", ept["eptp"], 64), _flag("ept.exec_only", ept["exec_only"])
    try:
        return ExtendedPaging(eptp, exec_only=exec_only, maxphyaddr=maxphyaddr)
    except ValueError as error:
        raise CaseError(f"ept: {error}") from None


def _memory(case: Case) -> _CaseMemory:
    maxphyaddr = case["maxphyaddr"]
    if type(maxphyaddr) is not int or not 32 <= maxphyaddr <= 52:
        raise CaseError(f"maxphyaddr is {maxphyaddr!r}, it must be an integer from 32 to 52")
    if not isinstance(case["memory"], list):
        raise CaseError("memory must be a list of [physical address, value, size]")
    memory = _CaseMemory(maxphyaddr)
    seen: dict[int, int] = {}
    for number, word in enumerate(case["memory"]):
        address, value, size = _word(f"memory[{number}]", word)
        try:
            memory.write(address, value, size)
        except ValueError as error:
            raise CaseError(f"memory[{number}]: {error}") from None
        for part in range(0, size, 4):
            half = value >> part * 8 & _LOW_HALF
            if seen.setdefault(address + part, half) != half:
                raise CaseError(f"memory[{number}]: {address + part:#x} is listed before with another value")
    return memory


def _word(name: str, word: Any) -> tuple[int, int, int]:
    if not isinstance(word, list) or len(word) != 3:
        raise CaseError(f"{name} must be [physical address, value, size]")
    size = _number(f"{name} size", word[2], 64)
    if size not in (4, 8):
        raise CaseError(f"{name} size is {size}, it must be 4 or 8")
    return _number(f"{name} address", word[0], 64), _number(f"{name} value", word[1], size * 8), size


def _cpl(case: Case) -> int:
    return _one_of("cpl", case["cpl"], (0, 3), int)


def _check_keys(what: str, value: Any, required: set[str], optional: set[str]) -> None:
    if not isinstance(value, Mapping):
        raise CaseError(f"{what} must be an object, it is {value!r:.40}")
    missing, unknown = required - value.keys(), value.keys() - required - optional
    if missing:
        raise CaseError(f"{what}: missing {', '.join(sorted(missing))}")
    if unknown:
        raise CaseError(f"{what}: unknown {', '.join(sorted(map(str, unknown)))}")


def _number(name: str, value: Any, bits: int) -> int:
    number = value
    if isinstance(value, str) and value[:2] in ("0x", "0X"):
        try:
            number = int(value, 16)
        except ValueError:
            number = None
    if type(number) is not int:
        raise CaseError(f'{name} is {value!r:.40}, it must be an integer or a string "0x..."')
    if number < 0 or number >> bits:
        raise CaseError(f"{name} is {value!r:.40}, it must be from 0 to 2**{bits} - 1")
    return number


def _flag(name: str, value: Any) -> bool:
    return bool(_one_of(name, value, (0, 1), int))


def _one_of(name: str, value: Any, choices: Sequence[int | str], kind: Callable[[Any], T]) -> T:
    if not isinstance(value, (int, str)) or value not in choices:
        raise CaseError(f"{name} is {value!r:.40}, it must be one of {', '.join(map(repr, choices))}")
    return kind(value)
