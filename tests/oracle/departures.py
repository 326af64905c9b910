"""Where Unicorn departs from the manuals, as code: what it answers is corrected to what the manuals say.

Four kinds. A *correction* is applied to the emulator's answer, so that the model is still held to the
letter. A *substitution* is made in the case, where another bit has the effect that the manuals give to one.
What is *unseen* cannot be told from the emulator at all and is taken out of both answers. What is *left out*
is not run, because it would end the process or mean something else.

One departure of Unicorn's needs no code: it has no global pages (CR4.PGE and the G bit do nothing). A cold
walk does not show the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.oracle.case import CR4_PSE, EFER_LMA, Answer, Case
from tests.oracle.nested import guest_walk, host_leaves, pdptes

_P = 1 << 0
_A = 1 << 5
_D = 1 << 6
_PS = 1 << 7
_PDPTE_LOW_RESERVED = 0x1E6
_SEEN_RESERVED = 1 << 62
_NPF_WRITE = 1 << 1
_NPF_FETCH = 1 << 4
NPF_FINAL = 1 << 32
NPF_GUEST_TABLE = 1 << 33


@dataclass(frozen=True)
class Correction:
    """One departure: its name, the rule of the manuals, and the answer that follows the rule."""

    name: str
    rule: str
    correct: Callable[[Case, Answer], Answer]


def _check_pdptes(case: Case, answer: Answer) -> Answer:
    if case.paging != "PAE" or case.npt is not None:
        return answer
    reserved = _PDPTE_LOW_RESERVED | ((1 << 64) - (1 << case.maxphyaddr))
    root = case.root_table
    loaded = (case.memory.get(root + 8 * index, (0, 8))[0] for index in range(4))
    if any(pdpte & _P and pdpte & reserved for pdpte in loaded):
        return Answer("general-protection")
    return answer


def _no_accessed_flag_from_a_fault(case: Case, answer: Answer) -> Answer:
    if answer.result != "page-fault" or not case.efer & EFER_LMA:
        return answer
    # The one large entry that an emulated walk changes before it faults is the 1-GByte page's.
    return replace(answer, changed={a: value for a, value in answer.changed.items() if not value & _PS})


def _no_fetch_bit_without_nx(case: Case, answer: Answer) -> Answer:
    if case.npt is None or answer.exit_info_1 is None:
        return answer
    if case.npt.efer_nxe and case.npt.paging != "32-bit":
        return answer
    return replace(answer, exit_info_1=answer.exit_info_1 & ~_NPF_FETCH)


def _flags_of_nested_leaves(case: Case, answer: Answer) -> Answer:
    if case.npt is None or answer.result != "ok":
        return answer
    tables, page = guest_walk(case)
    flags = dict.fromkeys((mapping.leaf for mapping in tables), _A | _D)
    if page is not None:
        flags[page.leaf] = flags.get(page.leaf, _A) | _D * (case.access == "write")
    changed = dict(answer.changed)
    for leaf, used in flags.items():
        before = case.memory[leaf][0]
        if before | used != before:
            changed[leaf] = before | used
    return replace(answer, changed=changed)


def _exit_info_1_has_64_bits(case: Case, answer: Answer) -> Answer:
    if answer.exit_info_1 is None:
        return answer
    written = bool(answer.exit_info_1 & _NPF_WRITE)
    guest_table = written and case.access != "write"
    return replace(answer, exit_info_1=answer.exit_info_1 | (NPF_GUEST_TABLE if guest_table else NPF_FINAL))


CORRECTIONS = (
    Correction(
        "PDPTEs are read again on each walk, and most of their reserved bits ignored",
        "SDM vol. 3A, 4.4.1: MOV to CR3 loads the four PDPTEs, and faults (#GP) if one that is present "
        "has a reserved bit set: 2:1, 8:5, or MAXPHYADDR and up",
        _check_pdptes,
    ),
    Correction(
        "the accessed flag of an entry that maps a 1-GByte page is set although the access faults",
        "SDM vol. 3A, 4.8: the flag is set when the entry is used to translate; a disallowed access, "
        "or an entry with a reserved bit, has no translation",
        _no_accessed_flag_from_a_fault,
    ),
    Correction(
        "a nested page fault of a fetch has the I/D bit even with the host's EFER.NXE off",
        "APM vol. 2, 15.25.6 and 8.4.2: the bit is defined only when no-execute is enabled, by the host here",
        _no_fetch_bit_without_nx,
    ),
    Correction(
        "the last entry of a nested walk gets A for 1-GByte pages only, and never D",
        "APM vol. 2, 15.25.5: nested entries have accessed and dirty flags as others do, and those above a "
        "guest's tables have both set, because such accesses are writes",
        _flags_of_nested_leaves,
    ),
    Correction(
        "EXITINFO1 is kept in 32 bits on its way out",
        "APM vol. 2, 15.25.6: bit 33 for an access to a guest table, bit 32 for the final one; guest tables "
        "are always accessed as user writes (15.25.5), so that a fault of a read or fetch tells which it was",
        _exit_info_1_has_64_bits,
    ),
)


def by_the_manuals(case: Case, answer: Answer) -> Answer:
    """The emulator's answer with every departure put right."""
    for departure in CORRECTIONS:
        answer = departure.correct(case, answer)
    return answer


def for_the_emulator(case: Case) -> Case:
    """The case with what Unicorn overlooks replaced by what it does not.

    In nested walks PDPTEs are read like other entries, and reserved bits found when they are (APM vol. 2,
    15.25.10), the guest's as well as those of a PAE host. Unicorn overlooks bits 2:1 and 8:5, but not bit 62.
    """
    if case.npt is None:
        return case
    overlooked = {
        address: (value | _SEEN_RESERVED, size)
        for address in pdptes(case)
        for value, size in [case.memory.get(address, (0, 8))]
        if value & _P and value & _PDPTE_LOW_RESERVED
    }
    return replace(case, memory=case.memory | overlooked)


def seen(case: Case, answer: Answer) -> Answer:
    """An answer, the model's or a corrected one, without what the emulator does not show.

    - The accessed and dirty flags in the last entry of a nested walk if the access faults: how far the walk
      came is not known, and Unicorn does not set them.
    - Which of bits 32 and 33 a nested fault of a write has, because accesses to tables are writes as well.
      That exactly one of them is set remains.
    """
    if case.npt is None:
        return answer
    if answer.result != "ok":
        leaves = host_leaves(case)
        answer = replace(answer, changed={a: value for a, value in answer.changed.items() if a not in leaves})
    which = (answer.exit_info_1 or 0) & (NPF_FINAL | NPF_GUEST_TABLE)
    if case.access == "write" and which == NPF_GUEST_TABLE:
        answer = replace(answer, exit_info_1=(answer.exit_info_1 or 0) ^ which | NPF_FINAL)
    return answer


def left_out(case: Case) -> str | None:
    """Why a case must not be run, if so.

    - Unicorn crashes on nested NX above a frame of the guest's tables.
    - Under a 32-bit host it goes by the guest's CR4.PSE for 4-MByte pages, where the host's counts: nested
      tables have the format of the paging mode that VMRUN was executed in (APM vol. 2, 15.25). A case has no
      host CR4.PSE; it is clear, and bit 7 of a nested PDE without meaning.
    """
    if case.npt is None:
        return None
    if case.npt.efer_nxe and any(mapping.nx for mapping in guest_walk(case)[0]):
        return "nested NX on a frame of the guest's page tables"
    if case.npt.paging == "32-bit" and case.cr4 & CR4_PSE:
        pdes = (case.memory.get(case.npt.ncr3 + 4 * index, (0, 4))[0] for index in range(1024))
        if any(pde & _P and pde & _PS for pde in pdes):
            return "bit 7 of a PDE of a 32-bit host whose guest has CR4.PSE"
    return None
