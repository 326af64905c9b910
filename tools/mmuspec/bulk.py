"""Extraction as a command: one document to a text, or many to a folder, on all processors."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from mmuspec import folder
from mmuspec.cache import Cache
from mmuspec.drift import with_known_ids
from mmuspec.errors import Problem
from mmuspec.export import as_yaml
from mmuspec.reading import load_spec_once, read_document, read_uncached

ENDINGS = (".rst", ".txt", ".rst.gz", ".txt.gz")
IN_A_FOLDER = (".rst", ".rst.gz")
BATCH = 16


def extract_one(doc: str, spec_directory: Path, tree: Path | None = None, rev: str | None = None) -> str:
    """The YAML of one document; a statement that the spec knows has the id it has there."""
    document = read_document(doc, tree, rev)
    if any(spec_directory.glob("*.yaml")):
        document = with_known_ids(document, load_spec_once(spec_directory), Cache().words_of)
    return as_yaml(document)


def extract_all(docs: Iterable[str], output: Path, spec_directory: Path) -> int:
    """One YAML file under `output` for each document, and for each .rst below each folder.

    A document that cannot be read is named on standard error and the others are done. Returns the exit
    status.
    """
    jobs = _jobs(docs, output)
    failures = 0
    for problem in _shown(_run(jobs, spec_directory), len(jobs)):
        if problem:
            failures += 1
            print(problem, file=sys.stderr)  # noqa: T201
    failed = f", {failures} failed" if failures else ""
    print(f"{output}: {len(jobs) - failures} documents written{failed}")  # noqa: T201
    return 2 if failures else 0


def _jobs(docs: Iterable[str], output: Path) -> list[tuple[str, Path]]:
    """(document, file to write), the largest documents first so that no processor is left waiting."""
    jobs: dict[Path, str] = {}
    for doc in docs:
        root = Path(doc)
        found = _below(root) if root.is_dir() else [(doc, Path(root.name if root.suffix else doc))]
        for source, relative in found:
            place = output / relative.parent / f"{_stem(relative.name)}.yaml"
            if place in jobs:
                raise Problem(
                    f"{jobs[place]} and {source} would both be written to {place}; do one at a time", source
                )
            jobs[place] = source
    return sorted(((doc, place) for place, doc in jobs.items()), key=lambda job: -_size(job[0]))


def _below(root: Path) -> list[tuple[str, Path]]:
    paths = (
        Path(at) / name for at, _, names in os.walk(root) for name in names if name.endswith(IN_A_FOLDER)
    )
    return [(str(path), path.relative_to(root)) for path in sorted(paths)]


def _stem(name: str) -> str:
    ending = next((ending for ending in sorted(ENDINGS, key=len, reverse=True) if name.endswith(ending)), "")
    return name[: len(name) - len(ending)]


def _size(doc: str) -> int:
    try:
        return Path(doc).stat().st_size
    except OSError:
        return 0


def _run(jobs: list[tuple[str, Path]], spec_directory: Path) -> Iterator[str | None]:
    workers = min(os.cpu_count() or 1, max(1, len(jobs) // BATCH))
    if workers == 1:
        yield from (_one(doc, place, spec_directory) for doc, place in jobs)
        return
    with ProcessPoolExecutor(workers) as pool:
        batches = [jobs[i : i + BATCH] for i in range(0, len(jobs), BATCH)]
        try:
            for done in as_completed(pool.submit(_several, batch, spec_directory) for batch in batches):
                yield from done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _several(batch: list[tuple[str, Path]], spec_directory: Path) -> list[str | None]:
    return [_one(doc, place, spec_directory) for doc, place in batch]


def _one(doc: str, place: Path, spec_directory: Path) -> str | None:
    """What went wrong with one document, if anything did."""
    try:
        path = Path(doc)
        folder.write(
            place, as_yaml(read_uncached(path)) if path.is_file() else extract_one(doc, spec_directory)
        )
    except Problem as problem:
        return str(problem)
    return None


def _shown(results: Iterator[str | None], total: int) -> Iterator[str | None]:
    if not sys.stderr.isatty():
        yield from results
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(results, "extracting", total, console=Console(stderr=True), transient=True)
