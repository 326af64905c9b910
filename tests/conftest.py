"""Documents of real kernels, and a cache of one's own for every test."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

from mmuspec.cache import Cache

settings.register_profile("unhurried", deadline=None)  # no test fails because a machine is slow
settings.load_profile("unhurried")

REAL_CACHE = Cache().folder

collect_ignore = [] if find_spec("playwright") else ["browser"]
"""`make browser` installs what its tests need; they are named on_*.py, so no other run has them anyway."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache, nor finds a kernel tree by accident."""
    monkeypatch.setenv("MMUSPEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KERNEL_TREE", raising=False)


@pytest.fixture
def real_document() -> dict[str, str]:
    """The texts of mmu.rst that `make documents` fetched, by release.

    Missing ones skip the test, but in CI they fail it: there the network is at hand.
    """
    cache = Cache(REAL_CACHE)
    texts = {}
    for release in ("6.1", "6.12"):
        entry = cache.release(release)
        text = cache.text(entry.sha256) if entry else None
        if text is None and os.environ.get("CI"):
            pytest.fail(f"mmu.rst of {release} is not at hand: run `make documents`")
        if text is None:
            pytest.skip(f"mmu.rst of {release} is not at hand: run `make documents`")
        texts[release] = text
    return texts
