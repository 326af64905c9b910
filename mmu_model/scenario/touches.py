"""What one step touches in the guest, the interpreter's own accesses included.

Between two steps the guest leaves to userspace, so no translation is carried over from one to the next. All
addresses are linear; accesses to pages of the interpreter are given once a page.
"""

from __future__ import annotations

from dataclasses import dataclass

from .layout import DESCRIPTORS, KERNEL_CODE, SMM_CODE, STACK_TOP, USER_CODE, USER_OPS, Op
from .schema import Mode

READS = (Op.READ, Op.USER_READ)
WRITES = {Op.WRITE: 0, Op.WRITE_1: 1, Op.WRITE_4: 4, Op.USER_WRITE: 0}
FETCHES = (Op.FETCH, Op.USER_FETCH)


@dataclass(frozen=True, slots=True)
class Touch:
    """An access of the processor: ``kind`` is read, write or fetch; ``size`` in bytes."""

    kind: str
    address: int
    size: int
    user: bool = False
    value: int | None = None


def touches(
    op: Op, address: int, value: int, *, at: int, mode: Mode, faults: bool = False, in_smm: bool = False
) -> tuple[Touch, ...]:
    """The accesses of the step whose record lies at ``at``, in order.

    ``faults`` says that the step's own access ends in an exception: its delivery reads gate, segment and,
    from user mode, the TSS, all in one page, and pushes onto the stack (SDM Vol. 3, 6.12.1 and 6.14.4).
    """
    word = 8 if mode.long and not in_smm else 4
    code = Touch("fetch", SMM_CODE if in_smm else KERNEL_CODE, 1)
    user = op in USER_OPS
    found = [code, Touch("read", at, 24)]
    if user:
        found.append(Touch("fetch", USER_CODE, 1, user=True))
    if op in READS:
        found.append(Touch("read", address, word, user))
    elif op in WRITES:
        found.append(Touch("write", address, WRITES[op] or word, user, value))
    elif op in FETCHES:
        found.append(Touch("fetch", address, 2, user))
    if faults:
        frame = 48 if mode.long else 24 if user else 16  # SS, RSP, RFLAGS, CS, RIP, error code
        found += [Touch("read", DESCRIPTORS, word), Touch("write", STACK_TOP - frame, frame)]
    if user or faults:
        found.append(code)
    return tuple(found)
