"""The report: what is known of each statement, beside the document's own words.

`build` computes everything; `html` and `markdown` and the JSON schema only show it.
"""

from mmuspec.report.build import Report, build
from mmuspec.report.write import write

__all__ = ["Report", "build", "write"]
