"""What a report can have besides spec, results and document, gathered from the folders where it is kept."""

from __future__ import annotations

from pathlib import Path

from mmuspec import results
from mmuspec.cache import Cache
from mmuspec.extract import extract
from mmuspec.gaps import load_gaps
from mmuspec.report.build import Aside
from mmuspec.report.code import Code
from mmuspec.report.history import Edition
from mmuspec.results import Results
from mmuspec.spec import Spec
from mmuspec.version import version_key


def aside(spec: Spec, ran: Results | None, directory: Path, baseline: Path | None = None) -> Aside:
    """What there is for a spec in `directory`. Asks no network: a document that is not in the cache is left out.

    Raises `Problem` for gaps or a baseline that cannot be read.
    """
    cache = Cache()
    return Aside(
        editions=_editions(spec, ran, cache),
        words_of=cache.words_of,
        gaps=load_gaps(directory),
        code=Code(directory.parent),
        baseline=results.load([baseline]) if baseline else None,
    )


def _editions(spec: Spec, ran: Results | None, cache: Cache) -> list[Edition]:
    """The releases that spec and run speak of, as far as their documents are in the cache."""
    named = {spec.source.release, *(ran.kernels if ran else ()), *(old.release for old in spec.obsolete)}
    named |= {kernel for statement in spec.everything() for kernel, _ in statement.curated.kernels}
    found = []
    for release in sorted(named & set(cache.releases()), key=version_key):
        entry = cache.release(release)
        text = cache.text(entry.sha256) if entry else None
        if entry and text is not None:
            found.append(Edition.of(release, extract(text, entry.path, release)[0]))
    return found
