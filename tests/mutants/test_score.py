"""What a share of so many mutants says of all."""

import pytest

from mutants.score import Score


@pytest.mark.parametrize(
    ("killed", "total", "low", "high"),
    [(90, 100, 0.8256, 0.9448), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (0, 0, 0.0, 1.0)],
)
def test_the_interval_is_wilsons(killed: int, total: int, low: float, high: float) -> None:
    assert Score(killed, total).interval == pytest.approx((low, high), abs=1e-4)
