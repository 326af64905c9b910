"""The document from an installed linux-doc package."""

from __future__ import annotations

import os
from pathlib import Path

from mmuspec.errors import Problem
from mmuspec.fetch.content import read_file
from mmuspec.fetch.found import Found
from mmuspec.fetch.places import DOCUMENT_PATHS, first_there

PACKAGE = "linux-doc-"


def share_doc() -> Path:
    """Where packages put their documentation: /usr/share/doc, or what ``MMUSPEC_SHARE_DOC`` names."""
    return Path(os.environ.get("MMUSPEC_SHARE_DOC") or "/usr/share/doc")


def installed(release: str) -> Found:
    """The document of the installed package. Raises `Problem` if there is none."""
    package = share_doc() / f"{PACKAGE}{release}"
    file = _document(package)
    if file is None:
        raise Problem("is not installed", package.name)
    path = file.relative_to(package).as_posix().removesuffix(".gz")
    return Found(read_file(file), path, f"installed package, {file}", release)


def releases() -> list[str]:
    """The releases whose package is installed."""
    packages = share_doc().glob(f"{PACKAGE}[0-9]*")
    return [package.name.removeprefix(PACKAGE) for package in packages if _document(package)]


def _document(package: Path) -> Path | None:
    return first_there(package / f"{path}{zipped}" for path in DOCUMENT_PATHS for zipped in (".gz", ""))
