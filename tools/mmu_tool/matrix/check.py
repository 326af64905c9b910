"""The comparison of the three answers, block by block."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mmu_model.hardware.access import Access
from mmu_model.hardware.batch import NO_FAULT, walk_batch
from mmu_model.hardware.faults import PageFault
from mmu_model.hardware.linear import LinearPaging
from mmu_model.hardware.memory import PhysicalMemory
from mmu_model.hardware.registers import Mode
from mmu_model.hardware.types import PAGE_SHIFT
from mmu_model.hardware.walk import walk
from mmu_tool.matrix import rules
from mmu_tool.matrix.combinations import (
    ACCESSES,
    BLOCKS,
    PDE_FLAGS,
    PDES,
    PTE_FLAGS,
    PTES,
    SEQUENCES,
    Block,
    flag,
    legal,
)
from mmu_tool.matrix.scene import (
    LARGE_PAGE,
    SMALL_PAGE,
    addresses,
    linear_address,
    paging,
    pde_address,
    pte_address,
    tables,
)

_SHOWN: Final = 5
"""Disagreements of a block that are described; all are counted."""

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Answers:
    """What one of the three says of some combinations: the fault, the page, and the entries afterwards."""

    fault: NDArray[np.int16]
    address: NDArray[np.uint64]
    numbers: Numbers


def check_block(mode: str, number: int) -> dict[str, Any]:
    """Compare all combinations of one block; plain arguments and results, to be sent between processes.

    Returns
    -------
    dict
        `block`, its number; `combinations`; `single_walks`, how many of these were made; `disagreements`,
        their number; `described`, some of them in words.

    """
    block = BLOCKS[number]
    memory = tables(Mode(mode), block.read_only, block.key)
    processor = paging(Mode(mode), block)
    numbers = legal(block)
    singles = _Singles(memory, processor, numbers)
    described: list[str] = []
    disagreements = 0
    for sequence in SEQUENCES:
        answers = {
            "rules": _by_rules(block, sequence, numbers),
            "batch": _by_batch(memory.copy(), processor, sequence, numbers),
            "single": singles.answers(sequence),
        }
        wrong = _differ(answers["rules"], answers["batch"]) | _differ(answers["rules"], answers["single"])
        disagreements += int(wrong.sum())
        for lane in np.flatnonzero(wrong)[: _SHOWN - len(described)]:
            described.append(_describe(block, sequence, int(numbers[lane]), answers, int(lane)))
    return {
        "block": number,
        "combinations": len(numbers) * len(SEQUENCES),
        "single_walks": singles.made,
        "disagreements": disagreements,
        "described": described,
    }


def _by_rules(block: Block, sequence: Sequence[Access], numbers: Numbers) -> Answers:
    now = numbers
    for how in sequence:
        outcome = rules.outcome(block, how, now)
        now = outcome.numbers
    offset = np.where(outcome.large, numbers % PTES << PAGE_SHIFT, 0)
    page = np.where(outcome.large, LARGE_PAGE, SMALL_PAGE) + offset
    page = np.where(outcome.fault == rules.OK, page, 0)
    return Answers(outcome.fault, page.astype(np.uint64), now)


def _by_batch(
    memory: PhysicalMemory, processor: LinearPaging, sequence: Sequence[Access], numbers: Numbers
) -> Answers:
    for how in sequence:
        walks = walk_batch(memory, processor, how, addresses(numbers))
    return Answers(walks.fault, walks.address, _numbers_in(memory)[numbers])


class _Singles:
    """Single walks of each combination with each access, one for all that read the same words."""

    def __init__(self, memory: PhysicalMemory, processor: LinearPaging, numbers: Numbers) -> None:
        self._numbers = numbers
        self.made = 0
        self._by_access = {how: self._walk_all(memory, processor, how) for how in ACCESSES}

    def answers(self, sequence: Sequence[Access]) -> Answers:
        """The last access finds what those before it have left."""
        now = self._numbers
        for how in sequence[:-1]:
            now = self._by_access[how].numbers[now]
        last = self._by_access[sequence[-1]]
        return Answers(last.fault[now], last.address[now], last.numbers[now])

    def _walk_all(self, memory: PhysicalMemory, processor: LinearPaging, how: Access) -> Answers:
        """By number; what is no combination stays empty."""
        numbers = self._numbers.tolist()
        of_pde = np.bincount(self._numbers // PTES, minlength=PDES).cumsum().tolist()
        walked: list[tuple[int, int, int, int, int]] = []
        position = 0
        while position < len(numbers):
            pde, pte = divmod(numbers[position], PTES)
            observed = _Observed(memory)
            fault, place = _walk(observed, processor, how, linear_address(pde, pte))
            # A walk that has not read the PTE is the walk of every combination with this PDE.
            alike = 1 if observed.last == pte_address(pde, pte) else of_pde[pde] - position
            new_pde = observed.changed.get(pde_address(pde), 0)
            new_pte = observed.changed.get(pte_address(pde, pte), 0)
            walked.append((alike, fault, place, new_pde, new_pte))
            position += alike
        self.made += len(walked)
        return self._spread(walked)

    def _spread(self, walked: Sequence[tuple[int, int, int, int, int]]) -> Answers:
        """From single walks, each for so many combinations, to combinations."""
        alike, faults, places, pdes, ptes = zip(*walked, strict=True)
        numbers = self._numbers
        first = np.repeat(np.cumsum(alike) - alike, alike)
        pages = np.repeat(np.array(places, np.uint64), alike)
        pages = np.where(pages != 0, pages + addresses(numbers) - addresses(numbers[first]), 0)
        after = numbers.copy()
        for words, flags, unit in ((pdes, PDE_FLAGS, PTES), (ptes, PTE_FLAGS, 1)):
            left = np.repeat(np.array(words, np.uint64), alike)
            was = numbers // unit % (1 << len(flags))
            after += np.where(left != 0, _number_of(left, flags).astype(np.int64) - was, 0) * unit
        answers = Answers(
            np.zeros(PDES * PTES, np.int16), np.zeros(PDES * PTES, np.uint64), np.arange(PDES * PTES)
        )
        answers.fault[numbers] = np.repeat(np.array(faults, np.int16), alike)
        answers.address[numbers] = pages
        answers.numbers[numbers] = after
        return answers


def _walk(observed: "_Observed", processor: LinearPaging, how: Access, address: int) -> tuple[int, int]:
    try:
        return NO_FAULT, walk(observed, processor, how, address).address
    except PageFault as fault:
        return fault.error_code, 0


class _Observed:
    """The memory before a walk; it notes what a walk reads last and would change, and stays as it is."""

    def __init__(self, memory: PhysicalMemory) -> None:
        self._read = memory.read
        self.changed: dict[int, int] = {}
        self.last = 0

    def read(self, address: int, size: int = 8) -> int:
        self.last = address
        return self._read(address, size)

    def compare_exchange(self, address: int, expected: int, value: int, size: int = 8) -> bool:
        self.changed[address] = value
        return True


def _numbers_in(memory: PhysicalMemory) -> Numbers:
    """For each combination the number of the entries that are in its place now."""
    pdes, ptes = np.arange(PDES), np.arange(PTES)
    index = memory.frame_index()
    pde_words = memory.words[index.base(pde_address(pdes) >> PAGE_SHIFT) + pdes]
    pte_words = memory.words[index.base(pte_address(pdes, ptes[:1]) >> PAGE_SHIFT)[:, np.newaxis] + ptes]
    has_table = ~flag(pdes, PDE_FLAGS, "PS")[:, np.newaxis]
    found = np.where(has_table, _number_of(pte_words, PTE_FLAGS), ptes)
    everything: Numbers = (_number_of(pde_words, PDE_FLAGS)[:, np.newaxis] * PTES + found).astype(np.int64)
    return everything.flatten()


def _number_of(word: Any, flags: dict[str, int]) -> Any:
    """The number of an entry, or of each in an array of them."""
    return sum((word >> bit & 1) << place for place, bit in enumerate(flags.values()))


def _differ(one: Answers, other: Answers) -> NDArray[np.bool_]:
    differ: NDArray[np.bool_] = (
        (one.fault != other.fault) | (one.address != other.address) | (one.numbers != other.numbers)
    )
    return differ


def _describe(
    block: Block, sequence: Sequence[Access], number: int, answers: dict[str, Answers], lane: int
) -> str:
    def names(number: int) -> str:
        pde = "+".join(name for name in PDE_FLAGS if flag(np.array(number // PTES), PDE_FLAGS, name))
        pte = "+".join(name for name in PTE_FLAGS if flag(np.array(number % PTES), PTE_FLAGS, name))
        return f"PDE {pde or 'empty'}, PTE {pte or 'empty'}"

    how = ", then ".join(f"{'user' if how.user else 'supervisor'} {how.kind.value}" for how in sequence)
    verdicts = "; ".join(
        f"{who}: {'ok' if said.fault[lane] == NO_FAULT else f'#PF {said.fault[lane]:#x}'},"
        f" {said.address[lane]:#x}, then {names(int(said.numbers[lane]))}"
        for who, said in answers.items()
    )
    return f"{block}, {how}, {names(number)}: {verdicts}"
