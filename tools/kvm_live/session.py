"""Follows the protocol of one machine: programs begin, give results, ask for snapshots, end."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mmu_model.scenario import Program, Scenario
from mmu_model.snapshot import Address, MmuKind, Snapshot, StepResult, Word, canonical
from mmu_model.snapshot.role import ROLE_BITS

from .btf import Btf, BtfError, elf_section
from .checks import disagreements
from .errors import LiveError
from .machine import Machine
from .memory import BadAddressError, Memory
from .packages import Kernel
from .pages import CorruptError
from .structures import Structures
from .trace import Trace
from .vm import VcpuState, VmDecoder

WANTED_FLAGS = ("svm", "npt")
ON, OFF = ("Y", "1"), ("N", "0")
SWITCHES = {  # what the modules' parameters must read as: npt, tdp_mmu
    MmuKind.TDP: (ON, ON),
    MmuKind.DIRECT: (ON, OFF),
    MmuKind.SHADOW: (OFF, OFF),
}


@dataclass
class Outcome:
    """What a scenario gave; ``failures`` say why it is not to be recorded."""

    results: list[StepResult] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Session:
    """A booted machine with its scenarios; ``outcomes`` yields them as they end."""

    def __init__(self, machine: Machine, kernel: Kernel, mmu: MmuKind, *, five_level: bool) -> None:
        self.machine, self.kernel, self.mmu, self.five_level = machine, kernel, mmu, five_level
        self.symbols: dict[str, int] = {}
        self.told: dict[str, str] = {}
        self.decoder: VmDecoder | None = None

    def outcomes(
        self, scenarios: list[tuple[Scenario, Program]], progress: Callable[[str], object]
    ) -> Iterator[Outcome]:
        """Runs all; ``progress`` hears the name of each snapshot. Raises LiveError when the machine fails."""
        lines = self.machine.lines()
        decoder = self._boot(lines)
        try:
            for scenario, program in scenarios:
                progress(scenario.name)
                yield _Run(scenario, program, decoder, self.machine).follow(lines)
        finally:
            decoder.memory.close()

    def _boot(self, lines: Iterator[str]) -> VmDecoder:
        for line in lines:
            word, _, rest = line.partition(" ")
            if word == "SYMBOL":
                name, address = rest.split()
                self.symbols[name] = int(address, 16)
            elif word == "FAIL":
                raise LiveError(f"kernel {self.kernel.release}: {rest}")
            elif word == "READY":
                break
            else:
                self.told[word] = rest.strip()
        self._check_host()
        return self._decoder()

    def _check_host(self) -> None:
        flags = self.told.get("FLAGS", "").split()
        missing = [flag for flag in WANTED_FLAGS if flag not in flags]
        if missing:
            raise LiveError(f"this QEMU's CPU has no {', '.join(missing)}; install QEMU 7 or newer")
        if self.five_level and "la57" not in flags:
            raise LiveError("this QEMU's CPU has no five-level paging; install QEMU 7 or newer")
        have = (self.told.get("NPT", "?"), self.told.get("TDP_MMU", "?"))
        if any(value not in wanted for value, wanted in zip(have, SWITCHES[self.mmu], strict=True)):
            raise LiveError(
                f"kernel {self.kernel.release} has npt={have[0]} tdp_mmu={have[1]} for {self.mmu.value}"
            )

    def _decoder(self) -> VmDecoder:
        if "__start_BTF" not in self.symbols:
            raise LiveError(
                f"kernel {self.kernel.release} was built without BTF (CONFIG_DEBUG_INFO_BTF), which tells where "
                "the members of its structures are; record on one that was built with it"
            )
        try:
            memory = Memory(self.machine.memory, self.symbols, five_level=self.five_level)
            start = self.symbols["__start_BTF"]
            base = Btf(memory.read(start, self.symbols["__stop_BTF"] - start))
            structures = Structures(Btf(elf_section(self.kernel.modules["kvm"]), base))
        except KeyError as error:
            raise LiveError(f"kernel {self.kernel.release} has no symbol {error} in /proc/kallsyms") from None
        except (BtfError, BadAddressError, struct.error) as error:
            raise LiveError(f"kernel {self.kernel.release} cannot be decoded: {error}") from None
        if structures.role_bits != ROLE_BITS:
            raise LiveError(
                f"kernel {self.kernel.release} has other bits in kvm_mmu_page_role than this version knows"
            )
        return VmDecoder(memory, structures, self.symbols["vm_list"], self.kernel.series, self.mmu)


class _Run:
    """One scenario on the machine."""

    def __init__(self, scenario: Scenario, program: Program, decoder: VmDecoder, machine: Machine) -> None:
        self.program, self.decoder, self.machine = program, decoder, machine
        self.where, self.steps = scenario.where, scenario.walk()
        self.trace, self.outcome, self.base = Trace(), Outcome(), 0

    def follow(self, lines: Iterator[str]) -> Outcome:
        for line in lines:
            word, _, rest = line.partition(" ")
            if word == "END":
                break
            self._take(word, rest)
        if not self.outcome.failures:
            self._check_results()
        return self.outcome

    def _take(self, word: str, rest: str) -> None:
        if word == "TRACE":
            self.trace.add(rest)
        elif word == "MEMORY":
            self.base = int(rest, 16)
        elif word == "SNAPSHOT":
            self._snapshot(rest.split())
            self.machine.go_on()
        elif word == "FAIL":
            self.outcome.failures.append(f"{self.where}:{self._line_in(rest)}: error: {rest}")
        elif word in ("RESULT", "FAULT", "DIRTY"):
            self._result(word, rest.split())

    def _line_in(self, text: str) -> int:
        """The line of the step that a failure names."""
        _, _, number = text.partition(" at step ")
        return self._line(int(number.split()[0])) if number else 1

    def _line(self, step: int) -> int:
        return self.steps[step].line if step < len(self.steps) else 1

    def _result(self, word: str, parts: list[str]) -> None:
        step = int(parts[0])
        if word == "DIRTY":
            result = StepResult(step, dirty=tuple(int(page) for page in parts[1:]))
        elif word == "FAULT":
            vector, code, cr2 = int(parts[1]), int(parts[2], 16), int(parts[3], 16)
            result = StepResult(
                step, vector=vector, error_code=Word(code), cr2=Address(cr2) if vector == 14 else None
            )
        elif getattr(self.steps[step], "kind", None) == "read":
            result = StepResult(step, value=Word(int(parts[1], 16)))
        else:
            return
        self.outcome.results.append(result)

    def _snapshot(self, parts: list[str]) -> None:
        name = self.program.snapshots[int(parts[0])]
        cr0, cr3, cr4, efer = (int(part, 16) for part in parts[1:5])
        state = VcpuState(cr0, cr3, cr4, efer, smm=parts[5] == "1", guest_mode=parts[6] == "1")
        try:
            raw = self.decoder.snapshot(name, state, self.base)
            found = [*disagreements(raw, self.decoder.hash_table(), self.decoder, self.base)]
            found += self.trace.disagreements(raw)
        except (BadAddressError, CorruptError, ValueError) as error:
            found = [f"cannot be decoded: {error}"]
        else:
            self.outcome.snapshots.append(canonical(raw))
        self.outcome.failures += [f"{self.where}:1: error: snapshot {name}: {what}" for what in found]

    def _check_results(self) -> None:
        """A step that faults must have been meant to, and the reverse."""
        faulted = {result.step for result in self.outcome.results if result.vector is not None}
        for number, step in enumerate(self.steps):
            if getattr(step, "fault", False) != (number in faulted):
                how = (
                    "faulted; write 'fault: true' if it should"
                    if number in faulted
                    else "should fault and did not"
                )
                self.outcome.failures.append(f"{self.where}:{step.line}: error: the step {how}")
        if len(self.outcome.snapshots) != len(self.program.snapshots):
            self.outcome.failures.append(f"{self.where}:1: error: not all snapshots came")
