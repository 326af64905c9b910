"""The BTF reader: members, bit fields, anonymous members, modules on top of the kernel."""

import struct
from pathlib import Path

import pytest

from kvm_live.btf import Btf, BtfError, Member, elf_section

from .btf_data import CONST, TYPEDEF, UNION, BtfData


def kernel() -> tuple[BtfData, Btf]:
    """u32, u64, a structure with a union without a name, a bit field, an array, a typedef."""
    made = BtfData()
    u32, u64 = made.integer("u32", 4), made.integer("u64", 8)
    inner = made.struct("", 8, [("value", u64, 0), ("half", u32, 32)], UNION)
    bits = made.struct("bits", 4, [("low", u32, 0 | 4 << 24), ("high", u32, 4 | 2 << 24)], bits=True)
    table = made.array(u64, 5)
    alias = made.add(TYPEDEF, "alias_t", made.add(CONST, "", bits))
    made.struct(
        "outer", 64, [("first", u32, 0), ("", inner, 64), ("table", table, 128), ("flags", alias, 448)]
    )
    return made, Btf(made.data())


def test_a_member_is_found_by_its_path() -> None:
    _, btf = kernel()

    assert btf.offset("outer", "first") == 0
    assert btf.offset("outer", "value") == 8, "of the anonymous union"
    assert btf.offset("outer", "half") == 12
    assert btf.offset("outer", "flags.high") == 56
    assert btf.offset("outer", "new_name", "first") == 0, "the first that exists"
    assert btf.find("outer").ref == 64


def test_arrays_and_bit_fields_say_their_size() -> None:
    _, btf = kernel()

    assert btf.field("outer", "table")[1].length == 5
    members = [(m.name, m.bit, m.width) for m in btf.members(btf.find("bits"))]
    assert members == [("low", 0, 4), ("high", 4, 2)]
    assert isinstance(next(btf.members(btf.find("bits"))), Member)


def test_a_module_goes_on_where_the_kernel_ends() -> None:
    made, base = kernel()
    module = BtfData(made.next, len(made.strings))
    module.struct("wrapper", 72, [("size", 1, 0), ("outer", made.next - 1, 64)])
    btf = Btf(module.data(), base)

    assert btf.offset("wrapper", "outer.table") == 8 + 16
    assert btf.offset("outer", "table") == 16
    assert btf.type(1).name == "u32"
    assert btf.type(0).kind == "VOID"


@pytest.mark.parametrize(
    ("paths", "message"),
    [(("nothing", "first.deeper"), "struct outer has no nothing or first.deeper")],
)
def test_a_member_that_is_not_there_is_an_error(paths: tuple[str, ...], message: str) -> None:
    _, btf = kernel()

    with pytest.raises(BtfError, match=message):
        btf.field("outer", *paths)
    with pytest.raises(BtfError, match="no struct other"):
        btf.find("other")


def test_other_data_is_an_error() -> None:
    with pytest.raises(BtfError, match="no BTF data"):
        Btf(b"\0" * 64)
    with pytest.raises(BtfError, match="no BTF data"):
        Btf(b"")


def elf(section: str, content: bytes) -> bytes:
    """An ELF file with one section beside that of the names."""
    names = b"\0.shstrtab\0" + section.encode() + b"\0"
    table = 64 + len(names) + len(content)
    head = bytearray(64)
    head[:4] = b"\x7fELF"
    struct.pack_into("<Q", head, 0x28, table)
    struct.pack_into("<HHH", head, 0x3A, 64, 2, 0)
    rows = struct.pack("<IIQQQQIIQQ", 1, 3, 0, 0, 64, len(names), 0, 0, 0, 0)
    rows += struct.pack("<IIQQQQIIQQ", 11, 1, 0, 0, 64 + len(names), len(content), 0, 0, 0, 0)
    return bytes(head) + names + content + rows


def test_the_section_of_a_module_is_found(tmp_path: Path) -> None:
    path = tmp_path / "kvm.ko"
    path.write_bytes(elf(".BTF", b"content"))
    assert elf_section(path) == b"content"

    path.write_bytes(elf(".text", b"content"))
    with pytest.raises(BtfError, match=r"kvm\.ko has no section \.BTF"):
        elf_section(path)
    path.write_bytes(b"text")
    with pytest.raises(BtfError, match=r"kvm\.ko is no ELF file"):
        elf_section(path)
