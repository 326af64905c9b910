"""The bits of ``union kvm_mmu_page_role`` (arch/x86/include/asm/kvm_host.h; the same in 6.1 and 6.12)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import NewType

RoleWord = NewType("RoleWord", int)

# name, first bit, width; bits 19 to 23 are padding
ROLE_BITS: tuple[tuple[str, int, int], ...] = (
    ("level", 0, 4),
    ("has_4_byte_gpte", 4, 1),
    ("quadrant", 5, 2),
    ("direct", 7, 1),
    ("access", 8, 3),
    ("invalid", 11, 1),
    ("efer_nx", 12, 1),
    ("cr0_wp", 13, 1),
    ("smep_andnot_wp", 14, 1),
    ("smap_andnot_wp", 15, 1),
    ("ad_disabled", 16, 1),
    ("guest_mode", 17, 1),
    ("passthrough", 18, 1),
    ("smm", 24, 8),
)

ACC_EXEC, ACC_WRITE, ACC_USER = 1, 2, 4


@dataclass(frozen=True, slots=True)
class Role:
    """What a shadow page is valid for. ``access`` is the sum of ACC_EXEC, ACC_WRITE and ACC_USER."""

    level: int
    has_4_byte_gpte: int = 0
    quadrant: int = 0
    direct: int = 0
    access: int = 0
    invalid: int = 0
    efer_nx: int = 0
    cr0_wp: int = 0
    smep_andnot_wp: int = 0
    smap_andnot_wp: int = 0
    ad_disabled: int = 0
    guest_mode: int = 0
    passthrough: int = 0
    smm: int = 0

    @staticmethod
    def from_word(word: int) -> Role:
        """The role that ``role.word`` spells; padding is ignored."""
        return _decoded(word)

    @property
    def word(self) -> RoleWord:
        """``role.word``. Raises ValueError where a field does not fit its bits."""
        word = 0
        for name, bit, width in ROLE_BITS:
            value = getattr(self, name)
            if value >> width:
                raise ValueError(f"role.{name} is {value}, more than {width} bits hold")
            word |= value << bit
        return RoleWord(word)

    def __str__(self) -> str:
        """Level, access and every field that is not zero: ``level=4 access=7 direct=1``."""
        return " ".join(
            f"{field.name}={getattr(self, field.name)}"
            for field in fields(self)
            if field.name == "level" or getattr(self, field.name)
        )


@cache  # a VM has few roles and many pages
def _decoded(word: int) -> Role:
    return Role(**{name: word >> bit & (1 << width) - 1 for name, bit, width in ROLE_BITS})
