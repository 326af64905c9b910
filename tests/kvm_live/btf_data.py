"""Makes BTF data (Documentation/bpf/btf.rst), to test the reader and decoders with."""

import struct
from collections.abc import Sequence

INT, PTR, ARRAY, STRUCT, UNION, TYPEDEF, CONST = 1, 2, 3, 4, 5, 8, 10
HEADER = 24


class BtfData:
    """Types added one after the other; each call returns the number of the type."""

    def __init__(self, first_type: int = 1, first_string: int = 0) -> None:
        self.types = b""
        self.strings = b"\0"
        self.first_string = first_string
        self.next = first_type

    def name(self, text: str) -> int:
        if not text:
            return 0
        self.strings += text.encode() + b"\0"
        return self.first_string + len(self.strings) - len(text) - 1

    def add(self, kind: int, name: str, ref: int, tail: bytes = b"", count: int = 0, flag: int = 0) -> int:
        self.types += struct.pack("<III", self.name(name), flag << 31 | kind << 24 | count, ref) + tail
        self.next += 1
        return self.next - 1

    def integer(self, name: str, size: int) -> int:
        return self.add(INT, name, size, struct.pack("<I", size * 8))

    def array(self, element: int, length: int) -> int:
        return self.add(ARRAY, "", 0, struct.pack("<III", element, element, length))

    def struct(
        self,
        name: str,
        size: int,
        members: Sequence[tuple[str, int, int]],
        kind: int = STRUCT,
        *,
        bits: bool = False,
    ) -> int:
        """Members are (name, type, offset in bits; with ``bits`` the width shifted by 24 as well)."""
        tail = b"".join(struct.pack("<III", self.name(n), of, offset) for n, of, offset in members)
        return self.add(kind, name, size, tail, len(members), int(bits))

    def data(self) -> bytes:
        lengths = (HEADER, 0, len(self.types), len(self.types), len(self.strings))
        return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, *lengths) + self.types + self.strings
