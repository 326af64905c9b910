"""What the manual says of a combination, stated apart from the model and in another way: as truth values.

SDM vol. 3: 4.5 (formats), 4.6 (rights), 4.7 (error code), 4.8 (accessed and dirty). Nothing of the walk, of
its entry formats or of its permission checks is used here.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mmu_model.hardware.access import Access
from mmu_tool.matrix.combinations import PDE_FLAGS, PTE_FLAGS, PTES, Block, flag

OK: Final = -1

Truth = NDArray[np.bool_]


@dataclass(frozen=True)
class Outcome:
    """What an access comes to.

    Attributes
    ----------
    fault :
        The error code of the page fault, or OK.
    large :
        The walk ends in a 2-MByte page.
    numbers :
        The entries as the access leaves them, numbered like combinations.

    """

    fault: NDArray[np.int16]
    large: Truth
    numbers: NDArray[np.int64]


def outcome(block: Block, how: Access, numbers: NDArray[np.int64]) -> Outcome:
    """What one access to each of these combinations comes to."""
    pde = {name: flag(numbers // PTES, PDE_FLAGS, name) for name in PDE_FLAGS}
    pte = {name: flag(numbers % PTES, PTE_FLAGS, name) for name in PTE_FLAGS}

    # Which entries are used: one that is not present, or has a reserved bit set, is the last one looked at.
    pde_reserved = pde["51"] | pde["PS"] & pde["13"] | (pde["XD"] & (not block.nxe))
    pte_reserved = pte["51"] | (pte["XD"] & (not block.nxe))
    pde_used = pde["P"] & ~pde_reserved
    large = pde_used & pde["PS"]
    looks_at_pte = pde_used & ~pde["PS"]
    pte_used = looks_at_pte & pte["P"] & ~pte_reserved
    reserved = pde["P"] & pde_reserved | looks_at_pte & pte["P"] & pte_reserved
    translated = large | pte_used

    # The rights of the page are those that every entry grants.
    writable = pde["W"] & (large | pte["W"]) & (not block.read_only)
    user_page = pde["U"] & (large | pte["U"])
    executable = ~pde["XD"] & (large | ~pte["XD"])

    write_protects = block.wp or how.user
    not_user = ~user_page & how.user
    not_writable = ~writable & (how.writes and write_protects)
    not_executable = ~executable & how.fetches
    key_forbids = block.key_ad or (block.key_wd and how.writes and write_protects)
    by_key = translated & user_page & bool(block.pke and block.key and not how.fetches and key_forbids)
    denied = translated & (not_user | not_writable | not_executable | by_key)

    fault = np.where(translated | reserved, 1, 0) | 2 * how.writes | 4 * how.user | reserved * 8
    fault |= 16 * (how.fetches and block.nxe) | by_key * 32
    succeeds = translated & ~denied

    changed = {
        ("pde", "A"): looks_at_pte | large & succeeds,
        ("pde", "D"): large & succeeds & how.writes,
        ("pte", "A"): pte_used & succeeds,
        ("pte", "D"): pte_used & succeeds & how.writes,
    }
    return Outcome(np.where(succeeds, OK, fault).astype(np.int16), large, _set(numbers, changed))


def _set(numbers: NDArray[np.int64], changed: dict[tuple[str, str], Truth]) -> NDArray[np.int64]:
    numbers = numbers.copy()
    for (entry, name), which in changed.items():
        place = list(PTE_FLAGS).index(name) if entry == "pte" else list(PDE_FLAGS).index(name)
        numbers |= which.astype(np.int64) << place + (0 if entry == "pte" else len(PTE_FLAGS))
    return numbers
