"""The document from the kernel's web site: the plain view of a release's tag."""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from http.client import HTTPMessage
from typing import IO

from mmuspec.errors import Problem
from mmuspec.fetch.content import LIMIT, document_bytes
from mmuspec.fetch.found import Found, Progress
from mmuspec.fetch.places import DOCUMENT_PATHS

SITE = "https://git.kernel.org/pub/scm/linux/kernel/git/stable/linux.git/plain"
TIMEOUT = 10.0
"""Seconds without a byte after which the server counts as unreachable."""
DEADLINE = 60.0
"""Seconds for one page in all."""


def from_web(release: str, progress: Progress) -> Found:
    """The document of a tag. ``MMUSPEC_KERNEL_SITE`` names another site's plain view. Raises `Problem`."""
    site = os.environ.get("MMUSPEC_KERNEL_SITE") or SITE
    host = _host(site)
    for path in DOCUMENT_PATHS:
        url = f"{site.rstrip('/')}/{path}?h=v{release}"
        progress(f"asking {host}")
        raw = _get(url, host)
        if raw is not None:
            return Found(document_bytes(raw, url), path, url, release)
    raise Problem(f"has no tag v{release} with the document in it", site)


def _host(site: str) -> str:
    with suppress(ValueError):
        address = urllib.parse.urlsplit(site)
        if address.scheme in ("http", "https") and address.netloc:
            return address.netloc
    raise Problem("is no http or https address; correct MMUSPEC_KERNEL_SITE", site)


def _get(url: str, host: str) -> bytes | None:
    """The page, or None if the server has none of this name."""
    request = urllib.request.Request(url, headers={"User-Agent": "mmuspec"})  # noqa: S310  see _host
    try:
        with _opener().open(request, timeout=TIMEOUT) as response:
            return _body(response, url)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 404:
                return None
            raise Problem(f"the server answered {error.code} {error.reason}", url) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        reason = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        raise Problem(f"cannot be reached ({reason}); name a file or a kernel tree instead", host) from None


def _body(response: http.client.HTTPResponse, url: str) -> bytes:
    deadline = time.monotonic() + DEADLINE
    data = bytearray()
    while len(data) <= LIMIT and (part := response.read1(1 << 16)):
        data += part
        if time.monotonic() > deadline:
            raise Problem(f"took longer than {DEADLINE:.0f} s; try again later", url)
    promised = response.headers.get("Content-Length", "")
    if len(data) <= LIMIT and promised.isdecimal() and len(data) != int(promised):
        raise Problem(f"came cut short: {len(data)} of {promised} bytes; try again", url)
    return bytes(data[: LIMIT + 1])


class _StayOnTheWeb(urllib.request.HTTPRedirectHandler):
    """Follows a redirect to https, or from http to http, and to nowhere else."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme != "https" and (scheme, req.type) != ("http", "http"):
            raise Problem(f"redirects to {newurl}, which is not followed", req.full_url)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """An opener that speaks http and https alone: no ftp, no file, no data."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(), urllib.request.HTTPHandler(), urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor(), _StayOnTheWeb(),
    ):  # fmt: skip
        opener.add_handler(handler)
    return opener
