"""The whole matrix of a paging mode, as a campaign over its blocks."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mmu_model import hardware
from mmu_model.hardware.registers import Mode
from mmu_tool.campaign import Checkpoint, Result, Workers, results
from mmu_tool.matrix.check import check_block
from mmu_tool.matrix.combinations import BLOCKS

_SHOWN = 10


@dataclass
class Summary:
    """What the blocks checked so far have come to; in whatever order they came."""

    blocks: int = 0
    combinations: int = 0
    single_walks: int = 0
    disagreements: int = 0
    described: list[str] = field(default_factory=list)

    def add(self, result: Result) -> None:
        """One block more."""
        self.blocks += 1
        self.combinations += result["combinations"]
        self.single_walks += result["single_walks"]
        self.disagreements += result["disagreements"]
        self.described = sorted(self.described + result["described"])[:_SHOWN]


def checkpoint(path: Path, mode: Mode) -> Checkpoint[int]:
    """What has been checked of this mode with this very model.

    Raises
    ------
    CampaignError
        The file is there and is no checkpoint.

    """
    sources = Path(hardware.__file__).parent.rglob("*.py")
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sorted(sources))).hexdigest()
    return Checkpoint(path, {"campaign": "access-matrix", "paging": mode.value, "model": digest})


def run(
    mode: Mode,
    make_executor: Workers,
    done: Checkpoint[int],
    progress: Callable[[Summary], None],
    blocks: Sequence[int] = range(len(BLOCKS)),
) -> Summary:
    """Check the blocks that have not been checked yet; `progress` hears of each."""
    summary = Summary()
    for result in done.done.values():
        summary.add(result)
    progress(summary)
    waiting = [block for block in blocks if block not in done.done]
    for block, result in results(partial(check_block, mode.value), waiting, make_executor):
        done.add(block, result)
        summary.add(result)
        progress(summary)
    done.remove()
    return summary
