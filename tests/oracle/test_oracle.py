"""The model's processor answers as the emulator does, on random cases."""

from __future__ import annotations

import pytest

from mmu_tool.cases import answer
from tests.oracle.compare import run

SEED = 20_261_122
SHARDS = 20
CASES = 20_000


@pytest.mark.parametrize("shard", range(SHARDS))
def test_the_model_agrees_with_the_emulator(shard: int) -> None:
    """A shard of the cases; each disagreement is shown as a line that `mmu-model walk` reads."""
    size = CASES // SHARDS

    tally = run(SEED, range(shard * size, (shard + 1) * size), answer)

    assert tally.compared + tally.left_out.total() == size
    assert tally.compared > 0.99 * size
    assert not tally.disagreements, "\n".join(str(found) for found in tally.disagreements[:5])
