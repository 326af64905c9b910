"""A reader of BTF, the kernel's own type information (Documentation/bpf/btf.rst): base and split."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAGIC = 0xEB9F
KINDS = """
    VOID INT PTR ARRAY STRUCT UNION ENUM FWD TYPEDEF VOLATILE CONST RESTRICT FUNC FUNC_PROTO VAR DATASEC
    FLOAT DECL_TAG TYPE_TAG ENUM64
""".split()
MODIFIERS = ("TYPEDEF", "VOLATILE", "CONST", "RESTRICT", "TYPE_TAG")
# bytes after a type's record: fixed, and for each of its elements
TAIL = {
    "INT": (4, 0),
    "ARRAY": (12, 0),
    "STRUCT": (0, 12),
    "UNION": (0, 12),
    "ENUM": (0, 8),
    "ENUM64": (0, 12),
    "FUNC_PROTO": (0, 8),
    "VAR": (4, 0),
    "DECL_TAG": (4, 0),
    "DATASEC": (0, 12),
}
ROW = struct.Struct("<III")


class BtfError(ValueError):
    """Data that is no BTF, or a name that it does not have."""


@dataclass(frozen=True, slots=True)
class Type:
    """One type. ``ref`` is a size or the number of another type; ``rows`` are the members of a structure
    (name, type, offset) or, of an array, element type, index type and length.
    """

    kind: str
    name: str
    ref: int
    bitfields: bool
    rows: tuple[tuple[int, int, int], ...]

    @property
    def length(self) -> int:
        """Elements of an array."""
        return self.rows[0][2]


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a structure: its place in bits, and its width where it is a bit field."""

    name: str
    bit: int
    width: int
    type: Type


class Btf:
    """The types in ``data``; a split BTF (a module's) goes on where ``base`` (the kernel's) ends."""

    def __init__(self, data: bytes, base: Btf | None = None) -> None:
        if len(data) < 24 or struct.unpack_from("<H", data)[0] != MAGIC:
            raise BtfError("no BTF data")
        header, type_off, type_len, str_off, str_len = struct.unpack_from("<4xIIIII", data)
        self.base = base
        self.strings = data[header + str_off : header + str_off + str_len]
        self.first_string: int = base.first_string + len(base.strings) if base else 0
        self.first_type: int = base.first_type + len(base.types) if base else 1
        self.types: list[Type] = []
        self.by_name: dict[str, Type] = {}
        self._parse(data, header + type_off, header + type_off + type_len)

    def _parse(self, data: bytes, at: int, end: int) -> None:
        while at < end:
            name, info, ref = ROW.unpack_from(data, at)
            at += ROW.size
            kind, count = KINDS[info >> 24 & 31], info & 0xFFFF
            fixed, each = TAIL.get(kind, (0, 0))
            tail = data[at : at + fixed + each * count]
            at += len(tail)
            rows = tuple(ROW.iter_unpack(tail)) if kind in ("ARRAY", "STRUCT", "UNION") else ()
            made = Type(kind, self.string(name), ref, bool(info >> 31), rows)
            self.types.append(made)
            if made.name and kind in ("STRUCT", "UNION"):
                self.by_name.setdefault(made.name, made)

    def string(self, offset: int) -> str:
        """The string at ``offset`` of the base's and this one's tables, seen as one."""
        if self.base and offset < self.first_string:
            return self.base.string(offset)
        offset -= self.first_string
        return self.strings[offset : self.strings.index(b"\0", offset)].decode()

    def type(self, number: int) -> Type:
        """The type of that number; 0 is void."""
        if number == 0:
            return Type("VOID", "", 0, False, ())
        if self.base and number < self.first_type:
            return self.base.type(number)
        return self.types[number - self.first_type]

    def find(self, name: str) -> Type:
        """The structure or union ``name``. Raises BtfError."""
        if name in self.by_name:
            return self.by_name[name]
        if self.base:
            return self.base.find(name)
        raise BtfError(f"no struct {name}")

    def strip(self, of: Type) -> Type:
        """The type behind typedefs and qualifiers."""
        while of.kind in MODIFIERS:
            of = self.type(of.ref)
        return of

    def members(self, of: Type, bit: int = 0) -> Iterator[Member]:
        """The members; those of anonymous members as if they were its own."""
        of = self.strip(of)
        for name_at, ref, offset in of.rows:
            width = offset >> 24 if of.bitfields else 0
            offset = offset & 0xFFFFFF if of.bitfields else offset
            name, member = self.string(name_at), self.type(ref)
            if not name and self.strip(member).kind in ("STRUCT", "UNION"):
                yield from self.members(member, bit + offset)
            else:
                yield Member(name, bit + offset, width, member)

    def field(self, struct_name: str, *paths: str) -> tuple[int, Type]:
        """Offset in bytes and type of the first of ``paths`` (such as ``arch.mmu``) that exists."""
        for path in paths:
            found = self._follow(self.find(struct_name), path.split("."))
            if found:
                return found
        raise BtfError(f"struct {struct_name} has no {' or '.join(paths)}")

    def offset(self, struct_name: str, *paths: str) -> int:
        """Offset in bytes of the first of ``paths`` that exists."""
        return self.field(struct_name, *paths)[0]

    def _follow(self, of: Type, path: list[str]) -> tuple[int, Type] | None:
        offset = 0
        for part in path:
            member = next((m for m in self.members(of) if m.name == part), None)
            if member is None:
                return None
            offset, of = offset + member.bit // 8, member.type
        return offset, self.strip(of)


def elf_section(path: Path) -> bytes:
    """The section .BTF of a 64-bit ELF file. Raises BtfError where there is none."""
    data = path.read_bytes()
    if data[:4] != b"\x7fELF":
        raise BtfError(f"{path.name} is no ELF file")
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names = struct.unpack_from("<HHH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", data, table + i * size) for i in range(count)]
    for name, _, _, _, offset, length in headers:
        start = headers[names][4] + name
        if data[start : data.index(b"\0", start)] == b".BTF":
            return data[offset : offset + length]
    raise BtfError(f"{path.name} has no section .BTF")
