"""A processor whose software invalidates after every change cannot be told from one without caches."""

from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from conformance.hardware.machine import (
    PAGE,
    VA,
    Machine,
)
from mmu_model.hardware import (
    CR4_PGE,
    Access,
    Kind,
    LinearPaging,
    LogicalProcessor,
    Mode,
    PageFault,
    access,
    walk,
)

P, W, U, G = 1, 2, 4, 1 << 8
READ, WRITE = access(Kind.READ), access(Kind.WRITE)


class ProperlyFlushed(RuleBasedStateMachine):
    """A processor whose software invalidates after every change cannot be told from one without caches."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine(Mode.FOUR_LEVEL)
        self.cpu = LogicalProcessor(self.machine.memory, self.machine.registers(cr4=CR4_PGE))

    pages = st.integers(0, 3).map(lambda n: VA + n * 0x1000 + (n >> 1) * 0x20_0000)

    @rule(address=pages, page=st.integers(1, 4), flags=st.integers(0, 7), is_global=st.booleans())
    def remap(self, address: int, page: int, flags: int, is_global: bool) -> None:
        self.machine.tables.map(address, PAGE + page * 0x1000, flags=flags | G * is_global)
        self.cpu.invlpg(address)

    @rule(address=pages, level=st.integers(2, 4), bit=st.sampled_from([W, U]))
    def change_a_table(self, address: int, level: int, bit: int) -> None:
        where = self.machine.tables.entry_address(address, level)
        self.machine.memory.write(where, self.machine.memory.read(where) ^ bit)
        self.cpu.mov_cr4(self.cpu.registers.cr4 ^ CR4_PGE)
        self.cpu.mov_cr4(self.cpu.registers.cr4 ^ CR4_PGE)

    @rule(address=pages, how=st.sampled_from([READ, WRITE, access(Kind.READ, user=True)]))
    def use(self, address: int, how: Access) -> None:
        plain = self.machine.memory.copy()
        paging = LinearPaging(self.cpu.registers)
        without_caches = outcome(lambda: walk(plain, paging, how, address).address)
        assert outcome(lambda: self.cpu.translate(address, how)) == without_caches
        assert self.machine.memory == plain


def outcome(translate: Callable[[], int]) -> int | str:
    try:
        return translate()
    except PageFault as fault:
        return str(fault)


ProperlyFlushed.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestProperlyFlushed = ProperlyFlushed.TestCase
