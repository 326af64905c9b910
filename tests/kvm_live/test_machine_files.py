"""What is made for the machine: archive, descriptor tables, VMCB, the compiled programs."""

import shutil
import struct
from pathlib import Path

import pytest

from kvm_live import build as builder
from kvm_live.build import build, definitions
from kvm_live.descriptors import Words, descriptor_words
from kvm_live.errors import LiveError
from kvm_live.initrd import cpio, initrd
from kvm_live.packages import Kernel
from mmu_model.scenario import compile_scenario, read_scenario
from mmu_model.scenario.layout import DESCRIPTORS, VMCB
from mmu_model.snapshot import MmuKind

SCENARIOS = Path(__file__).parents[2] / "conformance" / "scenarios"


def unpack(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Mode and content of the members of a newc archive, by name."""
    members: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name = archive[at + 110 : at + 110 + fields[11] - 1].decode()
        data = (at + 110 + fields[11] + 3) // 4 * 4
        if name == "TRAILER!!!":
            return members
        members[name] = (fields[1], archive[data : data + fields[6]])
        at = (data + fields[6] + 3) // 4 * 4


def test_an_archive_has_folders_console_and_files() -> None:
    members = unpack(cpio({"init": b"program", "programs/0": b"x" * 5}))

    assert members["init"] == (0o100755, b"program")
    assert members["programs/0"] == (0o100755, b"xxxxx")
    assert members["proc"][0] == 0o040755
    assert members["dev/console"][0] == 0o020600
    assert list(members).index("programs") < list(members).index("programs/0")


def test_modules_come_in_order_with_the_parameters_of_the_mmu(tmp_path: Path) -> None:
    modules = {name: tmp_path / f"{name}.ko" for name in ("irqbypass", "kvm", "kvm-amd")}
    for path in modules.values():
        path.write_bytes(b"module")
    kernel = Kernel("6.12", "6.12.1", tmp_path / "vmlinuz", modules)

    members = unpack(initrd(b"init", kernel, MmuKind.DIRECT, [b"one", b"two"]))

    assert members["modules"][1] == b"irqbypass.ko \nkvm.ko tdp_mmu=0\nkvm-amd.ko npt=1 nested=1\n"
    assert members["modules.d/kvm.ko"][1] == b"module"
    assert members["programs/1"][1] == b"two"
    del modules["kvm-amd"]
    with pytest.raises(LiveError, match=r"kernel 6\.12\.1 has no module kvm-amd"):
        initrd(b"init", kernel, MmuKind.TDP, [])


def test_words_may_be_written_in_any_width() -> None:
    words = Words()
    words.put(4, 0x1122334455667788)
    words.put(0x11, 0xAB, 1)

    assert words == {0: 0x5566778800000000, 8: 0x11223344, 0x10: 0xAB00}


def memory(name: str) -> bytes:
    """The first 128 KiB of a scenario's memory."""
    scenario = read_scenario(SCENARIOS / f"{name}.yaml")
    data = bytearray(0x20000)
    for at, word in descriptor_words(scenario, compile_scenario(scenario)).items():
        struct.pack_into("<Q", data, at, word)
    return bytes(data)


@pytest.mark.parametrize(("name", "gate", "code"), [("four-level", 16, 0x00AF9B00), ("pae", 8, 0x00CF9B00)])
def test_page_faults_lead_to_the_interpreter(name: str, gate: int, code: int) -> None:
    page = memory(name)[DESCRIPTORS : DESCRIPTORS + 4096]

    low, selector, kind, high = struct.unpack_from("<HHHH", page, 14 * gate)
    assert (low | high << 16, selector, kind) == (0x8A0, 8, 0x8E00)
    (descriptor,) = struct.unpack_from("<Q", page, 0x800 + 8)
    assert descriptor == code << 32 | 0xFFFF
    (stack,) = struct.unpack_from("<I", page, 0x900 + 4)
    assert stack == 0x4000


def test_the_vmcb_has_the_nested_guests_roots() -> None:
    data = memory("nested-npt")
    scenario = read_scenario(SCENARIOS / "nested-npt.yaml")
    registers = compile_scenario(scenario).registers

    def field(offset: int) -> int:
        value: int = struct.unpack_from("<Q", data, VMCB + offset)[0]
        return value

    assert field(0x090) == 1
    assert field(0x0B0) != field(0x550) != 0
    assert (field(0x558), field(0x548), field(0x4D0)) == (registers.cr0, registers.cr4, registers.efer)
    assert struct.unpack_from("<Q", memory("nested"), VMCB + 0x090)[0] == 0


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a compiler")
def test_the_programs_are_built_into_one_static_file(tmp_path: Path) -> None:
    program = build(tmp_path)

    assert program[:4] == b"\x7fELF"
    assert struct.unpack_from("<H", program, 16)[0] == 2, "an executable, at fixed addresses"
    for macro in ("KERNEL_CODE", "OP_VMRUN", "HOST_SMI", "PAGE_FAULT"):
        assert macro in definitions()


def test_without_a_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)

    with pytest.raises(LiveError, match="no C compiler; install gcc and libc6-dev"):
        build(tmp_path)


def test_a_compiler_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(builder, "FILES", ("missing.c",))

    with pytest.raises(LiveError, match=r"install gcc and libc6-dev.*\n(.*\n)*.*missing\.c"):
        build(tmp_path)
