"""A machine in QEMU: emulated in software, with AMD's SVM, its memory readable from outside."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from .errors import LiveError

QEMU = "qemu-system-x86_64"
CPU = "EPYC,+svm,+npt"
MEBIBYTES = 1024
SILENCE = 120.0  # seconds without a line after which the machine hangs; it boots in 3 on an idle computer
PR_SET_PDEATHSIG = 1
KERNEL_LINE = "console=ttyS0 nokaslr panic=-1 loglevel=5 mitigations=off"


class Machine:
    """Runs while the context lasts. ``memory`` is the file behind its RAM; it has no name, so nothing of it
    can be left behind. The first serial port goes to a file, the second is ``lines`` and ``go_on``.
    """

    def __init__(self, kernel: Path, initrd: Path, console: Path, *, five_level: bool) -> None:
        self.console = console
        self.pending = b""
        if shutil.which(QEMU) is None:
            raise LiveError(f"no {QEMU}; install it (Debian: apt-get install qemu-system-x86)")
        _require_memory()
        self.memory = os.memfd_create("kvm-live")
        os.ftruncate(self.memory, MEBIBYTES << 20)
        ram = f"memory-backend-file,id=ram,size={MEBIBYTES}M,mem-path=/proc/self/fd/{self.memory},share=on"
        command = [QEMU, "-accel", "tcg", "-cpu", CPU + (",+la57" if five_level else "")]
        command += ["-m", str(MEBIBYTES), "-machine", "pc,memory-backend=ram", "-object", ram]
        command += ["-nodefaults", "-display", "none", "-no-reboot"]
        command += ["-kernel", str(kernel), "-initrd", str(initrd), "-append", KERNEL_LINE]
        command += ["-serial", f"file:{console}", "-chardev", "stdio,id=talk,signal=off"]
        command += ["-serial", "chardev:talk"]
        libc = ctypes.CDLL(None)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(self.memory,),
            start_new_session=True,  # Ctrl-C comes to us alone
            preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        os.close(self.memory)

    def lines(self) -> Iterator[str]:
        """The lines the machine sends that begin with ``@@``, without it. Raises LiveError when it stops."""
        assert self.process.stdout is not None
        file = self.process.stdout.fileno()
        heard = time.monotonic()
        while True:
            if not select.select([file], [], [], 1)[0]:
                if time.monotonic() - heard > SILENCE:
                    raise LiveError(f"the machine has been silent for {SILENCE:.0f} s{self._last_words()}")
                continue
            data = os.read(file, 1 << 16)
            heard = time.monotonic()
            if not data:
                self.process.wait()
                raise LiveError(f"the machine ended{self._last_words()}")
            *complete, self.pending = (self.pending + data).split(b"\n")
            for line in complete:
                text = line.decode("latin-1").rstrip("\r")
                if text.startswith("@@"):
                    yield text[2:]

    def go_on(self) -> None:
        """Lets the machine continue after a snapshot."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def _last_words(self) -> str:
        """What QEMU and the kernel said, for a message."""
        said = ""
        if self.process.poll() is not None and self.process.stderr is not None:
            said = self.process.stderr.read().decode(errors="replace").strip()
        console = self.console.read_text(errors="replace").strip() if self.console.exists() else ""
        return "".join(f"\n  {line}" for line in [*said.split("\n"), *console.split("\n")[-8:]] if line)


def _require_memory() -> None:
    """Too little would have the kernel kill something; better to say so."""
    for line in Path("/proc/meminfo").read_text().split("\n"):
        if line.startswith("MemAvailable:") and int(line.split()[1]) >> 10 < MEBIBYTES + 256:
            raise LiveError(f"not enough free memory: the machine needs {MEBIBYTES} MiB, 256 more beside it")
