"""The report as coverage of the document's lines (LCOV tracefile, geninfo(1)), for the viewers that there are.

A line counts as often as tests passed that are evidence for, or against, the statement on it; one with several
statements as often as the least of them. A statement is a function that begins on its first line. It has two
branches: its tests pass; a wrong model makes one of them fail. What cannot be tested is left out, lines and all;
what is failing, or has no test, counts 0. Coverage says what is known, not what is true: `report.md` does that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mmuspec.report.build import Report
from mmuspec.report.dossier import Dossier
from mmuspec.status import Status
from mmuspec.text import fold
from mmuspec.visible import visible

LEFT_OUT: Final = (Status.WAIVED,)
NEVER_HIT: Final = (Status.FAILING, Status.UNCOVERED)


def tracefile(report: Report) -> str:
    """The whole file; paths as in a kernel tree, which is where viewers and genhtml find the document."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    counted = [each for each in report.dossiers if each.status not in LEFT_OUT]
    yield "TN:mmuspec"
    yield f"SF:{_word(report.source.path)}"
    yield from (f"FN:{each.line},{_word(each.id)}" for each in counted)
    yield from (f"FNDA:{_hits(each)},{_word(each.id)}" for each in counted)
    yield f"FNF:{len(counted)}"
    yield f"FNH:{sum(_hits(each) > 0 for each in counted)}"
    branches = [(each.line, number, *_branches(each)) for number, each in enumerate(counted)]
    for line, number, passes, noticed in branches:
        yield f"BRDA:{line},{number},0,{passes}"
        yield f"BRDA:{line},{number},1,{noticed if passes else '-'}"
    yield f"BRF:{2 * len(branches)}"
    yield f"BRH:{sum((passes > 0) + (passes > 0 and noticed > 0) for _, _, passes, noticed in branches)}"
    lines: dict[int, int] = {}
    for each in counted:
        for line in range(each.line, each.end_line + 1):
            lines[line] = min(lines.get(line, _hits(each)), _hits(each))
    yield from (f"DA:{line},{hits}" for line, hits in sorted(lines.items()))
    yield f"LF:{len(lines)}"
    yield f"LH:{sum(hits > 0 for hits in lines.values())}"
    yield "end_of_record"


def _hits(known: Dossier) -> int:
    if known.status in NEVER_HIT:
        return 0
    return sum(test.outcome == "passed" for test in known.tests)


def _branches(known: Dossier) -> tuple[int, int]:
    return _hits(known), sum(bool(proof.killed_by) for proof in known.violations)


def _word(text: str) -> str:
    """Text that cannot end its record: lines end it, and commas its field."""
    return fold(visible(text)).replace(",", ";")
