"""The page about races names all of them, and for each the wrong models that lose it."""

import re
from pathlib import Path

from conformance.races import LOST_BY_THE_KERNELS, RACES
from conformance.races.__main__ import rows
from conformance.races.wrong import WRONG

PAGE = Path(__file__).parents[2] / "docs" / "interleavings.md"


def test_the_table_has_every_race_and_what_loses_it() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| ([^|]+) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    shown = {race: set(re.findall(r"`(\w+)`", lost)) for race, lost in rows}
    expected = {
        race.__name__: {wrong.breaks.__name__ for wrong in WRONG if wrong.race is race} for race in RACES
    }

    assert shown == expected | {race.__name__: set() for race in LOST_BY_THE_KERNELS}


def test_the_table_can_be_made_anew() -> None:
    """Its heading is the page's, and so is its first row, but for the counts."""
    made = rows()
    heading, _, first = (next(made) for _ in range(3))
    text = PAGE.read_text("utf-8")

    assert f"| {' | '.join(heading)} |" in text
    assert f"| {first[0]} | {first[1]} |" in text
    assert first[-1] == "`plain_store`"
