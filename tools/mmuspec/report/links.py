"""Links to source lines: into the checkout beside the report, or into a view of it on the web."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote

from mmuspec.errors import Problem
from mmuspec.report.code import Place

WEB = re.compile(r"https?://[^\s/]+/")
KEYS = ("path", "line")


class Links:
    """Makes the link to a `Place`.

    `template` is an address with ``{path}`` and, if lines can be named, ``{line}`` in it. Without one links
    are relative: from the folder `out`, in which the page is, to the checkout `root`. Raises `Problem` for a
    template that leads nowhere.
    """

    def __init__(self, root: Path, out: Path, template: str | None = None) -> None:
        if template is not None:
            _is_address(template)
        self.template = (
            template or f"{quote(os.path.relpath(root, out).replace(os.sep, '/'))}/{{path}}#L{{line}}"
        )

    def __call__(self, place: Place) -> str:
        """What stands in an ``href``. A place without a line gets none, nor the fragment that would name it."""
        template = self.template if place.line else self.template.partition("#")[0]
        return template.replace("{path}", quote(place.path)).replace("{line}", str(place.line))


def _is_address(template: str) -> None:
    if not WEB.match(template) or "{path}" not in template:
        raise Problem(
            f"{template!r} is no address of source files; give one such as "
            "https://example.org/project/blob/REVISION/{path}#L{line}",
            "--source-url",
        )
    unknown = set(re.findall(r"\{(.*?)\}", template)) - set(KEYS)
    if unknown:
        raise Problem(f"{{{min(unknown)}}} is unknown; known are {{path}} and {{line}}", "--source-url")
