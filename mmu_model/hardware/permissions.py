"""Which accesses a translation permits: SDM vol. 3, section 4.6, rule by rule."""

from mmu_model.hardware.access import Access
from mmu_model.hardware.registers import (
    CR0_WP,
    CR4_PKE,
    CR4_PKS,
    CR4_SMAP,
    CR4_SMEP,
    Mode,
    Registers,
)

KEY_AD = 1
KEY_WD = 2


def permitted(registers: Registers, access: Access, *, writable: bool, user: bool, executable: bool) -> bool:
    """Whether the entries of a translation permit the access, protection keys apart (SDM 4.6.1).

    Parameters
    ----------
    registers :
        CR0.WP, CR4.SMEP, CR4.SMAP and EFLAGS.AC matter.
    access :
        What is to be done.
    writable, user :
        R/W, U/S are 1 in every entry that the translation used.
    executable :
        XD is 0 in every entry that it used.

    """
    if access.user:
        if not user:
            return False
        if access.writes:
            return writable
        return executable if access.fetches else True
    if access.fetches:
        return executable and not (user and registers.cr4 & CR4_SMEP)
    if user and registers.cr4 & CR4_SMAP and not (registers.ac and not access.implicit):
        return False
    if access.writes:
        return writable or not registers.cr0 & CR0_WP
    return True


def key_permits(registers: Registers, access: Access, *, user: bool, key: int) -> bool:
    """Whether the rights of a protection key permit a data access (SDM 4.6.2); fetches they do not govern."""
    if not registers.mode.is_long or access.fetches:
        return True
    if not registers.cr4 & (CR4_PKE if user else CR4_PKS):
        return True
    rights = (registers.pkru if user else registers.pkrs) >> 2 * key
    if rights & KEY_AD:
        return False
    governed = registers.cr0 & CR0_WP or (user and access.user)
    return not (rights & KEY_WD and access.writes and governed)


def keys_in_use(registers: Registers) -> bool:
    """Whether any translation can be denied by its protection key."""
    return registers.mode.is_long and bool(registers.cr4 & (CR4_PKE | CR4_PKS))


def reports_fetches(registers: Registers) -> bool:
    """Whether I/D of the error code tells a fetch (SDM 4.7): with SMEP, or with NXE where entries have XD."""
    has_xd = registers.mode in (Mode.PAE, Mode.FOUR_LEVEL, Mode.FIVE_LEVEL)
    return bool(registers.cr4 & CR4_SMEP) or (has_xd and registers.nxe)
