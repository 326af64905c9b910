"""How large the report is, and how soon it is there, from disk."""

from __future__ import annotations

import json
import time
from pathlib import Path

from mmuspec.report import build, write
from tests.browser.conftest import ROOT, Visit
from tests.report import scene

LARGEST = 3_000_000
LATEST = 1500
"""Milliseconds, on a machine that may have other things to do."""

PAINTED = """() => new Promise((found) => new PerformanceObserver((list, observer) => {
  for (const entry of list.getEntries()) if (entry.name === "first-contentful-paint") {
    observer.disconnect();
    found(entry.startTime);
  }
}).observe({type: "paint", buffered: true}))"""


def test_the_report_is_small_and_soon_there(real: Path, visit: Visit) -> None:
    times = sorted(float(visit(real).evaluate(PAINTED)) for _ in range(5))
    figures = {"bytes": real.stat().st_size, "first_paint_ms": round(times[len(times) // 2])}
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "browser.json").write_text(json.dumps(figures) + "\n")

    assert figures["bytes"] < LARGEST
    assert figures["first_paint_ms"] < LATEST


def test_a_small_report_is_built_in_no_time(tmp_path: Path) -> None:
    document = scene.gadget()
    spec = scene.gadget_spec(document)
    before = time.perf_counter()

    write(build(spec, scene.gadget_run(spec), document), tmp_path)

    assert time.perf_counter() - before < 5
