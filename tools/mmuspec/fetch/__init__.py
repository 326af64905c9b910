"""From `DOC`, a path or a release, to the text of the document.

A path is read. A release is looked for in this order, and the first that has it wins:

=====================  ==================================================================
the cache              `mmuspec.cache`; what a kernel tree once had only if none is named now
an installed package   /usr/share/doc/linux-doc-RELEASE
a kernel tree          named by --tree or ``KERNEL_TREE``
the Debian package     ``apt-get download linux-doc-RELEASE``
the web                git.kernel.org
=====================  ==================================================================

A revision (--rev) is asked for by name, so only the kernel tree can have it. What --tree names must have the
document if it is asked; the other sources may fail, and are heard only if all do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mmuspec.cache import Cache, Entry, warn
from mmuspec.errors import Problem
from mmuspec.fetch.content import read_file
from mmuspec.fetch.found import Found, Progress
from mmuspec.fetch.places import by_number, release_named


@dataclass(frozen=True, slots=True)
class Fetched:
    """A document at hand.

    `source` is its text, newlines untouched; `path` its path in the kernel tree, or the path as given;
    `release` is empty for a file; `sha256` is that of its bytes, unzipped; `origin` says in a line how it was
    found. `cached` is its copy in the cache; where the cache cannot be written there is no such file.
    """

    source: str
    path: str
    release: str
    sha256: str
    cached: Path
    origin: str


def fetch(
    doc: str, *, tree: Path | None = None, rev: str | None = None, progress: Progress | None = None
) -> Fetched:
    """Find the document that `doc` names: a release such as ``6.12``, else a path.

    `tree` and `rev` say where a release may be; a path needs neither. `progress` is told of work that takes
    a while. Raises `Problem`.
    """
    cache = Cache()
    release = release_named(doc)
    if release is None:
        if rev is not None:
            warn(doc, "a file has no revisions, so --rev does nothing for it; name a release")
        return _kept(cache, Found(read_file(Path(doc)), doc, f"file {doc}", ""))
    return _Search(release, tree, cache, progress or (lambda _: None)).run(rev)


@dataclass(frozen=True, slots=True)
class _Search:
    """A release being looked for. `tree` is the one named on the command line."""

    release: str
    tree: Path | None
    cache: Cache
    progress: Progress

    def run(self, rev: str | None) -> Fetched:
        if rev is not None:
            found = self._revision(rev)
            return _kept(self.cache, found, noted=found.settled)
        cached = self._in_cache()
        if cached:
            self._say_tree_was_not_read(cached.origin)
            return cached
        return _kept(self.cache, self._found())

    def _revision(self, rev: str) -> Found:
        from mmuspec.fetch.tree import revision_of_tree

        tree = self._tree_named()
        if tree is None:
            raise Problem("needs a kernel tree; name it with --tree or KERNEL_TREE", f"--rev {rev}")
        self.progress(f"reading {rev} of {tree}")
        return revision_of_tree(tree, rev, self.release)

    def _in_cache(self) -> Fetched | None:
        entry = self.cache.release(self.release)
        if entry is None or not (entry.settled or self._tree_named() is None):
            return None
        source = self.cache.text(entry.sha256)
        if source is None:
            return None
        cached = self.cache.place(entry.sha256)
        origin = f"cache, from {entry.origin}"
        return Fetched(source, entry.path, self.release, entry.sha256, cached, origin)

    def _found(self) -> Found:
        reasons = []
        for source in self._sources():
            try:
                found = source()
            except Problem as problem:
                if source == self._in_tree and self.tree is not None:
                    raise
                reasons.append(f"{problem.where}: {problem.message}")
            else:
                if source == self._installed:
                    self._say_tree_was_not_read(found.origin)
                return found
        raise Problem(
            f"this release is nowhere to be found ({'; '.join(reasons)}). {self._at_hand()} "
            "Name one of them, a file, or a kernel tree with --tree",
            self.release,
        )

    def _sources(self) -> Iterator[Callable[[], Found]]:
        yield self._installed
        if self._tree_named() is not None:
            yield self._in_tree
        yield self._package
        yield self._web

    def _installed(self) -> Found:
        from mmuspec.fetch.installed import installed

        return installed(self.release)

    def _in_tree(self) -> Found:
        from mmuspec.fetch.tree import release_in_tree

        tree = self._tree_named()
        assert tree is not None
        self.progress(f"reading {tree}")
        return release_in_tree(tree, self.release)

    def _package(self) -> Found:
        from mmuspec.fetch.apt import from_package

        return from_package(self.release, self.cache.folder / "apt", self.progress)

    def _web(self) -> Found:
        from mmuspec.fetch.web import from_web

        return from_web(self.release, self.progress)

    def _tree_named(self) -> Path | None:
        return self.tree or (Path(named) if (named := os.environ.get("KERNEL_TREE")) else None)

    def _say_tree_was_not_read(self, origin: str) -> None:
        if self.tree is not None:
            warn(self.tree, f"not read, as {self.release} is at hand ({origin}); --rev reads from the tree")

    def _at_hand(self) -> str:
        from mmuspec.fetch import apt, installed

        offered = apt.releases(self.cache.folder / "apt")
        return _list_releases([*self.cache.releases(), *installed.releases(), *offered])


def _kept(cache: Cache, found: Found, *, noted: bool = True) -> Fetched:
    """Put a document into the cache, and, if it is to be `noted`, as the document of its release."""
    sha256 = cache.keep(found.data)
    if found.release and noted:
        cache.remember(found.release, Entry(sha256, found.path, found.origin, found.settled))
    source = found.data.decode("utf-8")
    return Fetched(source, found.path, found.release, sha256, cache.place(sha256), found.origin)


def _list_releases(releases: Iterable[str]) -> str:
    known = sorted(set(releases), key=by_number)
    return f"Releases at hand: {', '.join(known)}." if known else "No release is at hand."
