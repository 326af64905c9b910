"""`union kvm_mmu_page_role`: what a shadow page is valid for, as the word that KVM compares.

The positions of the fields are those of arch/x86/include/asm/kvm_host.h; they are the same in 6.1 and 6.12.
"""

from functools import cache
from typing import ClassVar, Final, Self

from mmu_model.snapshot.role import ROLE_BITS

ACC_EXEC_MASK: Final = 1
ACC_WRITE_MASK: Final = 2
ACC_USER_MASK: Final = 4
ACC_ALL: Final = ACC_EXEC_MASK | ACC_WRITE_MASK | ACC_USER_MASK

_FIELDS: Final = {name: (shift, (1 << width) - 1) for name, shift, width in ROLE_BITS}


class PageRole(int):
    """A role. It is its word: equal roles are equal integers.

    There are few roles and they are asked for their fields all the time: so each exists once, taken apart.
    """

    level: int
    has_4_byte_gpte: int
    quadrant: int
    direct: int
    access: int
    invalid: int
    efer_nx: int
    cr0_wp: int
    smep_andnot_wp: int
    smap_andnot_wp: int
    ad_disabled: int
    guest_mode: int
    passthrough: int
    smm: int

    _known: ClassVar[dict[int, Self]] = {}

    def __new__(cls, word: int) -> Self:
        """The role with that word."""
        role = cls._known.get(word)
        if role is None:
            role = cls._known[word] = super().__new__(cls, word)
            role.__dict__.update({name: word >> shift & mask for name, (shift, mask) in _FIELDS.items()})
        return role

    def __setattr__(self, name: str, value: object) -> None:
        """A role stays what it is: see :meth:`replace`."""
        raise AttributeError(f"role.{name} cannot be set; replace() makes another role")

    def __reduce__(self) -> tuple[type[Self], tuple[int]]:
        """Copied, it is itself."""
        return type(self), (int(self),)

    @classmethod
    def of(cls, **values: int) -> Self:
        """The role with these fields, all others 0."""
        return cls(0).replace(**values)

    def replace(self, **values: int) -> Self:
        """The same role but for these fields.

        Raises
        ------
        ValueError
            A value does not fit its bits.

        """
        word = int(self)
        for name, value in values.items():
            shift, mask = _FIELDS[name]
            if value & ~mask:
                raise ValueError(f"role.{name} cannot be {value}: {mask} is the most it holds")
            word = word & ~(mask << shift) | value << shift
        return type(self)(word)

    def __repr__(self) -> str:
        parts = [f"{name}={value}" for name in _FIELDS if (value := getattr(self, name))]
        return f"PageRole({' '.join(parts)})"


def root_quadrant(index: int) -> int:
    """Which quarter of a 32-bit guest's page directory the root at `pae_root[index]` shadows.

    mmu.c: mmu_alloc_shadow_roots.
    """
    return index


def child_role(parent: PageRole, index: int, *, direct: bool, access: int) -> PageRole:
    """The role of the page that entry `index` of a shadow page leads to (mmu.c: kvm_mmu_child_role).

    Parameters
    ----------
    parent :
        The role of the page that will point at the child.
    index :
        The place of the entry that will.
    direct :
        Whether the child maps a linear range, or shadows a guest's table.
    access :
        ACC_* bits that the child inherits.

    """
    role = _inherited(parent, child_level(parent.level), access, int(direct))
    return role.replace(quadrant=child_quadrant(index)) if role.has_4_byte_gpte else role


@cache  # asked for at each step of each fault, and there are few answers
def _inherited(parent: PageRole, level: int, access: int, direct: int) -> PageRole:
    return parent.replace(level=level, access=access, direct=direct, passthrough=0, invalid=0)


def child_level(level: int) -> int:
    """The level of the pages that entries of a page of `level` lead to."""
    return level - 1


def child_quadrant(index: int) -> int:
    """Which half of a 4-byte-gpte page table the child of entry `index` of a page directory shadows.

    The directory's own entry takes bit 21 of the address; the table's index has only bits 20 to 12.
    """
    return index & 1
