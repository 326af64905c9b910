"""The guest: the interpreter of the step list, access by access (kvm_live/guest/interpreter.S)."""

from collections.abc import Callable
from typing import Final

from mmu_model.hardware.faults import NestedPageFault, PageFault
from mmu_model.kvm.vcpu import KVM_REQ_TLB_FLUSH_CURRENT
from mmu_model.machine import Cpu
from mmu_model.run.errors import NotModelled
from mmu_model.scenario import Op, Program, Record, Touch, touches
from mmu_model.scenario.layout import RECORD_SIZE, SMM_CODE, SMM_STEPS, STEPS
from mmu_model.snapshot import Address, StepResult, Word

PF_VECTOR: Final = 14
READS: Final = {Op.READ: 2, Op.USER_READ: 3}
"""What reads, and which of its touches is the one that the scenario asks for."""
DELIVERY: Final = 3
"""How many touches the delivery of a fault has, the handler's included."""
ENDS: Final = (Op.END, Op.RSM, Op.VMMCALL)


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

    Attributes
    ----------
    step :
        The number of the scenario's step that is being done.

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
        self.step = 0

    def run(self) -> None:
        """The whole program."""
        self._list(STEPS)

    def _list(self, at: int) -> None:
        """A step list to its end."""
        while True:
            record = self._records[at]
            at += RECORD_SIZE
            self.step = record.step
            # Every step ends in an exit, and the processor that was recorded has no ASIDs.
            self._cpu.vcpu.requests |= KVM_REQ_TLB_FLUSH_CURRENT
            try:
                self._take(record)
            except PageFault as fault:
                self._deliver(record, fault)
            if record.op in ENDS:
                return

    def _take(self, record: Record) -> None:
        """One record: what the interpreter touches for it, and the rest of what it does."""
        values = [self._touch(touch) for touch in self._touches(record)]
        if record.op in READS:
            self._on_result(StepResult(record.step, value=Word(values[READS[record.op]])))
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
            case Op.VMRUN:
                self._nested(record)
            case Op.VMMCALL:
                self._on_vmmcall()
            case Op.RSM:
                self._cpu.rsm()
            case Op.HOST:
                if self._on_host(record):
                    self._smm()

    def _smm(self) -> None:
        """The handler of system-management interrupts finds its list at SMM_STEPS."""
        self._cpu.enter_smm()
        self._in_smm = True
        self._touch(Touch("fetch", SMM_CODE, 1))
        self._list(self._cpu.read(SMM_STEPS, 4))
        self._in_smm = False

    def _nested(self, record: Record) -> None:
        """The nested guest does its list; a fault in the hypervisor's nested page tables ends it early."""
        self._on_vmrun()
        try:
            self._list(record.value)
        except NestedPageFault:
            self._on_vmmcall()

    def _deliver(self, record: Record, fault: PageFault) -> None:
        """The guest's handler tells userspace of the fault."""
        for touch in self._touches(record, faults=True)[-DELIVERY:]:
            self._touch(touch)
        code, cr2 = Word(fault.error_code), Address(fault.cr2)
        self._on_result(StepResult(record.step, vector=PF_VECTOR, error_code=code, cr2=cr2))

    def _touches(self, record: Record, *, faults: bool = False) -> tuple[Touch, ...]:
        return touches(
            record.op,
            record.address,
            record.value,
            at=record.at,
            mode=self._mode,
            faults=faults,
            in_smm=self._in_smm,
        )

    def _touch(self, touch: Touch) -> int:
        """One access; of what is wider than a register, its beginning."""
        size = min(touch.size, 8 if self._mode.long and not self._in_smm else 4)
        if touch.address % 8 + size > 8:
            raise NotModelled(
                f"{size} bytes at {touch.address:#x} cross a multiple of 8, which is not modelled"
            )
        cpl = 3 if touch.user else 0
        if touch.kind == "read":
            return self._cpu.read(touch.address, size, cpl=cpl)
        if touch.kind == "fetch":
            return self._cpu.fetch(touch.address, size, cpl=cpl)
        self._cpu.write(touch.address, (touch.value or 0) & (1 << 8 * size) - 1, size, cpl=cpl)
        return 0
