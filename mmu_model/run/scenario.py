"""One scenario on the model, from its text to what a recording holds."""

from dataclasses import replace

from mmu_model.hardware.faults import Fault
from mmu_model.hardware.types import PAGE_SHIFT
from mmu_model.kvm.errors import KvmBug, KvmError
from mmu_model.kvm.types import Hva
from mmu_model.machine import TripleFault, VirtualMachine
from mmu_model.run.build import add_cpu, build_machine, map_memory
from mmu_model.run.errors import NotModelled, RunError
from mmu_model.run.interpreter import Interpreter
from mmu_model.run.userspace import Userspace
from mmu_model.scenario import HostCall, HostOp, Program, Record, Scenario, compile_scenario
from mmu_model.scenario.compile import SMM_SPACE
from mmu_model.scenario.schema import Access
from mmu_model.scenario.tables import GuestTables
from mmu_model.snapshot import MmuKind, Recording, Snapshot, StepResult, canonical


def run_scenario(scenario: Scenario, kernel: str, mmu: MmuKind) -> Recording:
    """The results of its steps and its snapshots, in canonical form.

    Parameters
    ----------
    scenario :
        What to run.
    kernel, mmu :
        The release and the MMU; the scenario need not be meant for them.

    Raises
    ------
    RunError
        KVM refuses what a step asks for, or the guest cannot go on.
    ScenarioError
        Its page tables or its length cannot be.

    """
    return _Run(scenario, kernel, mmu).recording()


def unexpected(scenario: Scenario, recording: Recording) -> list[str]:
    """A line for each access that faulted and was not meant to, or the other way round."""
    faulted = {result.step for result in recording.results if result.vector is not None}
    return [
        f"{scenario.where}:{step.line}: error: the access "
        + ("faulted; write 'fault: true' if it should" if number in faulted else "should fault and did not")
        for number, step in enumerate(scenario.walk())
        if isinstance(step, Access) and step.fault != (number in faulted)
    ]


class _Run:
    """A VM with its process, from creation to the end of the scenario."""

    def __init__(self, scenario: Scenario, kernel: str, mmu: MmuKind) -> None:
        self.scenario = scenario
        self.program: Program = compile_scenario(scenario)
        self.lines = [step.line for step in scenario.walk()]
        self.results: list[StepResult] = []
        self.snapshots: list[Snapshot] = []
        self.vm = build_machine(scenario, self.program, kernel, mmu)
        self.base = map_memory(self.vm, self.program)
        self.userspace = Userspace(self.vm, self.base, self.take_snapshot)
        self.vm.kvm.manual_dirty_log_protect = self.program.manual_dirty_log
        self.set_slots()
        self.cpu = add_cpu(self.vm, self.program)
        nested = scenario.nested
        roots = GuestTables(scenario).roots if nested else {}
        self.nested_cr3 = roots[nested.npt] if nested and nested.npt else None
        self.vmcb = replace(self.cpu.vcpu.registers, cr3=roots[nested.cr3] if nested else 0)

    def set_slots(self) -> None:
        """Before the first step; the slot of the interpreter comes first."""
        lines = {slot.id: slot.line for slot in self.scenario.slots}
        for call in self.program.slots:
            self.userspace_call(call, lines.get(call.args[0] % SMM_SPACE, 1))

    def recording(self) -> Recording:
        """Runs the program; what it gave."""
        interpreter = Interpreter(
            self.cpu,
            self.program,
            on_result=self.results.append,
            on_host=self.host,
            on_vmrun=self.vmrun,
            on_vmmcall=self.vmmcall,
        )
        try:
            interpreter.run()
        except (KvmError, KvmBug, TripleFault, Fault, NotModelled) as end:
            line = self.lines[interpreter.step]
            raise RunError(self.scenario.where, line, f"the guest cannot go on: {end}") from None
        return Recording(self.scenario.name, self.program.digest, tuple(self.results), tuple(self.snapshots))

    def host(self, record: Record) -> bool:
        """The host calls of a record; whether the last one sent a system-management interrupt."""
        calls = self.program.host_calls[record.address : record.address + record.value]
        for call in calls:
            self.userspace_call(call, self.lines[call.step])
        return calls[-1].op is HostOp.SMI

    def userspace_call(self, call: HostCall, line: int) -> None:
        """One call; a refusal is an error at that line."""
        try:
            result = self.userspace.do(call)
        except KvmError as refusal:
            raise RunError(self.scenario.where, line, f"KVM refuses it: {refusal}") from None
        if result is not None:
            self.results.append(result)

    def vmrun(self) -> None:
        """Into the nested guest, as its VMCB says."""
        self.cpu.enter_nested(self.nested_cr3, self.vmcb)

    def vmmcall(self) -> None:
        """Out of it; the VMCB keeps its registers."""
        self.vmcb = self.cpu.vcpu.registers
        self.cpu.leave_nested()

    def take_snapshot(self, number: int) -> None:
        taken = self.vm.snapshot(self.program.snapshots[number])
        self.snapshots.append(canonical(_placed(self.vm, self.base, taken)))


def _placed(vm: VirtualMachine, base: Hva, snapshot: Snapshot) -> Snapshot:
    """Memslots say where in the memory behind the VM they lie, and come in the order of their numbers."""
    slots = sorted(snapshot.memslots, key=lambda slot: (slot.as_id, slot.id))
    first = base >> PAGE_SHIFT
    return replace(snapshot, memslots=tuple(replace(slot, backing=slot.backing - first) for slot in slots))
