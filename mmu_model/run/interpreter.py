"""The guest: the interpreter of the step list, access by access (kvm_live/guest/interpreter.S)."""

from collections.abc import Callable
from typing import Final

from mmu_model.hardware.faults import PageFault
from mmu_model.kvm.vcpu import Request
from mmu_model.machine import Cpu
from mmu_model.scenario import Op, Program, Record, Touch, touches
from mmu_model.scenario.layout import RECORD_SIZE, SMM_CODE, SMM_STEPS, STEPS
from mmu_model.snapshot import Address, StepResult, Word

PAGE_FAULT_VECTOR: Final = 14
ACCESSES: Final = frozenset(Op(n) for n in range(Op.USER_FETCH + 1))
DELIVERY: Final = 3
"""How many touches the delivery of a fault has, the handler's included."""


class Interpreter:
    """Takes the records of a step list one after the other.

    Parameters
    ----------
    cpu, program :
        What it runs on, and what it runs.
    on_result :
        Called with what an access gave.
    on_host :
        Called with a record of Op.HOST; says whether a system-management interrupt is pending then.
    on_vmrun, on_vmmcall :
        Enter and leave the nested guest.

    """

    def __init__(
        self,
        cpu: Cpu,
        program: Program,
        *,
        on_result: Callable[[StepResult], None],
        on_host: Callable[[Record], bool],
        on_vmrun: Callable[[], None],
        on_vmmcall: Callable[[], None],
    ) -> None:
        self._cpu = cpu
        self._mode = program.mode
        self._records = {record.at: record for record in program.records}
        self._on_result = on_result
        self._on_host = on_host
        self._on_vmrun = on_vmrun
        self._on_vmmcall = on_vmmcall
        self._in_smm = False
        self._word = 8 if program.mode.long else 4

    def run(self) -> None:
        """The whole program."""
        self._list(STEPS)

    def _list(self, at: int) -> None:
        """Run a step list to its end: Op.END, Op.RSM or Op.VMMCALL."""
        while True:
            record = self._records[at]
            at += RECORD_SIZE
            # Every step ends in an exit, and the processor that was recorded has no ASIDs.
            self._cpu.vcpu.requests.add(Request.TLB_FLUSH_CURRENT)
            if record.op in ACCESSES:
                self._access(record)
                continue
            self._touch_all(touches(record.op, 0, 0, at=record.at, mode=self._mode, in_smm=self._in_smm))
            match record.op:
                case Op.CR0:
                    self._cpu.mov_cr0(record.value)
                case Op.CR3:
                    self._cpu.mov_cr3(record.value)
                case Op.CR4:
                    self._cpu.mov_cr4(record.value)
                case Op.EFER:
                    self._cpu.wrmsr_efer(record.value)
                case Op.INVLPG:
                    self._cpu.invlpg(record.address)
                case Op.HOST:
                    if self._on_host(record):
                        self._smm()
                case Op.VMRUN:
                    self._on_vmrun()
                    self._list(record.value)
                case Op.VMMCALL:
                    self._on_vmmcall()
                    return
                case Op.RSM:
                    self._cpu.rsm()
                    return
                case _:
                    return

    def _smm(self) -> None:
        """The handler finds its list at SMM_STEPS."""
        self._cpu.enter_smm()
        self._in_smm = True
        self._touch(Touch("fetch", SMM_CODE, 1))
        self._list(self._cpu.read(SMM_STEPS, 4))
        self._in_smm = False

    def _access(self, record: Record) -> None:
        """A step that accesses memory, up to the exit that tells what it gave."""

        def steps(*, faults: bool) -> tuple[Touch, ...]:
            return touches(
                record.op,
                record.address,
                record.value,
                at=record.at,
                mode=self._mode,
                faults=faults,
                in_smm=self._in_smm,
            )

        try:
            values = self._touch_all(steps(faults=False))
        except PageFault as fault:
            self._touch_all(steps(faults=True)[-DELIVERY:])
            code, cr2 = Word(fault.error_code), Address(fault.cr2)
            self._on_result(StepResult(record.step, vector=PAGE_FAULT_VECTOR, error_code=code, cr2=cr2))
            return
        if record.op in (Op.READ, Op.USER_READ):
            own = 3 if record.op is Op.USER_READ else 2
            self._on_result(StepResult(record.step, value=Word(values[own])))

    def _touch_all(self, found: tuple[Touch, ...]) -> list[int]:
        return [self._touch(touch) for touch in found]

    def _touch(self, touch: Touch) -> int:
        """One access; of what is wider than a register, its beginning."""
        size = min(touch.size, 4 if self._in_smm else self._word)
        cpl = 3 if touch.user else 0
        if touch.kind == "read":
            return self._cpu.read(touch.address, size, cpl=cpl)
        if touch.kind == "fetch":
            return self._cpu.fetch(touch.address, size, cpl=cpl)
        self._cpu.write(touch.address, (touch.value or 0) & (1 << 8 * size) - 1, size, cpl=cpl)
        return 0
