"""A laid-out picture as SVG: the same bytes for the same picture, readable in light and dark, without colour
and without eyes (title and description)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final
from xml.etree import ElementTree

from .layout import CHARACTER, LINE, PADDING, SIGN, Box, Layout, Path
from .match import Change
from .picture import Picture, Row
from .text import CHANGES, clip, describe

NAMESPACE: Final = "http://www.w3.org/2000/svg"
NARROWEST: Final = 600
CLASSES: Final = {Change.NONE: "", Change.ADDED: "added", Change.REMOVED: "gone", Change.CHANGED: "changed"}

_SHAPES = """\
text{font:11px ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace;white-space:pre}
.name{font-size:15px;font-weight:bold}.head,.bold{font-weight:bold}
.card{stroke-width:1}.card.touched{stroke-width:2}.card.added{stroke-width:3}
.card.gone{stroke-width:2;stroke-dasharray:5 4}.fold{stroke-width:1}
.link{fill:none;stroke-width:1.3}.link.added{stroke-width:2.6}.link.gone{stroke-dasharray:5 4}
.link.changed{stroke-width:2.6;stroke-dasharray:9 3}.back{stroke-width:1.3}
text.gone{text-decoration:line-through}text.changed,text.added,text.wrong{font-weight:bold}
"""
_COLOURS = """\
.page{{fill:{page}}}text{{fill:{ink}}}.dim{{fill:{dim}}}.card,.fold{{fill:{card};stroke:{line}}}
.card.touched{{stroke:{changed}}}.card.added{{stroke:{added}}}.card.gone{{stroke:{gone}}}
.link{{stroke:{line}}}.tip{{fill:{line}}}.back{{fill:{page};stroke:{line}}}
.link.added{{stroke:{added}}}.tip.added{{fill:{added}}}.link.gone{{stroke:{gone}}}.tip.gone{{fill:{gone}}}
.link.changed{{stroke:{changed}}}.tip.changed{{fill:{changed}}}
text.added{{fill:{added}}}text.gone,text.wrong{{fill:{gone}}}text.changed{{fill:{changed}}}
"""
_LIGHT = {
    "page": "#fff", "ink": "#1b1f24", "dim": "#57606a", "card": "#f6f8fa", "line": "#6e7781",
    "added": "#116329", "gone": "#a40e26", "changed": "#7d4e00",
}  # fmt: skip
_DARK = {
    "page": "#0d1117", "ink": "#e6edf3", "dim": "#9da7b3", "card": "#161b22", "line": "#8b949e",
    "added": "#56d364", "gone": "#ff7b72", "changed": "#e3b341",
}  # fmt: skip
STYLE: Final = (
    _SHAPES
    + _COLOURS.format(**_LIGHT)
    + "@media(prefers-color-scheme:dark){"
    + _COLOURS.format(**_DARK)
    + "}"
)

LEGEND: Final = (  # what stands in some row, and what it means
    ("→", "→ points to that page"),
    ("parent_ptes", "○ the page names that entry in parent_ptes"),
    ("ptep", "○ the page names that entry as its ptep"),
    (" rw", "r w x u A D: readable, writable, executable, user, accessed, dirty"),
    (" wp", "wp: write-protected (MMU_WRITABLE clear)"),
    ("host-ro", "host-ro: the host's mapping is read-only"),
    ("…", "…: folded, what is left out is alike"),
)


def svg(layout: Layout) -> str:
    """The drawing, as the text of a file."""
    legend = _wrap(list(_legend(layout.picture)), layout)
    width = max(layout.width, NARROWEST)
    height = layout.height + LINE * len(legend) + PADDING
    root = ElementTree.Element(
        "svg",
        {
            "xmlns": NAMESPACE,
            "viewBox": f"0 0 {_number(width)} {_number(height)}",
            "width": _number(width),
            "height": _number(height),
            "role": "img",
            "aria-labelledby": "title description",
        },
    )
    ElementTree.SubElement(root, "title", {"id": "title"}).text = clip(layout.picture.title, 100)
    ElementTree.SubElement(root, "desc", {"id": "description"}).text = describe(layout.picture)
    ElementTree.SubElement(root, "style").text = STYLE
    ElementTree.SubElement(root, "rect", {"class": "page", "width": "100%", "height": "100%"})
    _top(root, layout)
    for path in layout.paths:
        _link(root, path)
    for box in layout.boxes:
        _card(root, box)
    for number, words in enumerate(legend):
        _text(root, 2 * PADDING, layout.height + LINE * (number + 0.5), words, "dim")
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _top(root: ElementTree.Element, layout: Layout) -> None:
    """Title, the facts of the VM, headings of columns."""
    picture = layout.picture
    since = _since(picture)
    _text(root, 2 * PADDING, 22, clip(picture.title, 60), "name")
    if since:
        title_width = len(clip(picture.title, 60)) * CHARACTER * 15 / 11
        _text(root, 2 * PADDING + title_width, 22, clip(since, 80), "dim")
    x = float(2 * PADDING)
    for row in picture.facts:
        text = _signed(row)
        _text(root, x, 44, text, CLASSES[row.change] or "dim")
        x += (len(text) + 3) * CHARACTER
    for x, heading in layout.headings:
        _text(root, x, 72, heading, "head dim")


def _since(picture: Picture) -> str:
    if picture.compared_with is None:
        return ""
    return "   what changed" + (f" since {picture.compared_with!r}" if picture.compared_with else "")


def _card(root: ElementTree.Element, box: Box) -> None:
    card = box.card
    touched = any(row.change is not Change.NONE for row in card.rows)
    classes = f"card {CLASSES[card.change] or ('touched' if touched else '')}".strip()
    shape = {"width": _number(box.width), "height": _number(box.height), "rx": "5"}
    for offset in (8, 4) if card.pages > 1 else ():
        place = {"x": _number(box.x + offset), "y": _number(box.y + offset)}
        ElementTree.SubElement(root, "rect", {"class": "fold", **place, **shape})
    place = {"x": _number(box.x), "y": _number(box.y)}
    ElementTree.SubElement(root, "rect", {"class": classes, **place, **shape})
    _text(root, box.x + PADDING, box.line(0), clip(card.title), "bold")
    if card.change is not Change.NONE:
        label = f"{card.change.value} {CHANGES[card.change]}"
        right = box.x + box.width - PADDING - len(label) * CHARACTER
        colour = "wrong" if card.change is Change.REMOVED else CLASSES[card.change]  # not struck out
        _text(root, right, box.line(0), label, f"bold {colour}")
    for number, words in enumerate(card.words):
        _text(root, box.x + PADDING, box.line(number + 1), clip(words), "dim")
    for y, row in box.rows():
        if row.change is not Change.NONE:
            _text(root, box.x + 5, y, row.change.value, "bold")
        classes = CLASSES[row.change] or "wrong" * row.wrong or "bold" * row.strong
        _text(root, box.x + PADDING + SIGN, y, clip(row.text), classes)


def _link(root: ElementTree.Element, path: Path) -> None:
    change = CLASSES[path.change]
    (x, y), (end_x, end_y) = path.points[0], path.points[-1]
    ElementTree.SubElement(root, "path", {"class": f"link {change}".strip(), "d": _curve(path.points)})
    tip = f"M{_number(end_x - 7)},{_number(end_y - 4)}l7,4l-7,4z"
    ElementTree.SubElement(root, "path", {"class": f"tip {change}".strip(), "d": tip})
    if path.link.back:
        circle = {"class": "back", "cx": _number(x + 4), "cy": _number(y), "r": "3"}
        ElementTree.SubElement(root, "circle", circle)
    elif path.link.back is False:
        _text(root, x + 2, y, "×", "wrong")


def _curve(points: Sequence[tuple[float, float]]) -> str:
    """From gap to gap in curves, along lanes straight."""
    x, y = points[0]
    curve = f"M{_number(x)},{_number(y)}"
    for number, (to_x, to_y) in enumerate(points[1:]):
        if number % 2:
            curve += f"L{_number(to_x)},{_number(to_y)}"
        else:
            middle = _number((x + to_x) / 2)
            curve += f"C{middle},{_number(y)},{middle},{_number(to_y)},{_number(to_x)},{_number(to_y)}"
        x, y = to_x, to_y
    return curve


def _text(root: ElementTree.Element, x: float, middle: float, words: str, classes: str = "") -> None:
    attributes = {"x": _number(x), "y": _number(middle + 4), **({"class": classes} if classes else {})}
    ElementTree.SubElement(root, "text", attributes).text = words


def _signed(row: Row) -> str:
    return f"{row.change.value} {clip(row.text)}".strip()


def _legend(picture: Picture) -> Iterator[str]:
    if picture.compared_with is not None:
        yield "+ new, thick"
        yield "− gone, dashed"
        yield "~ changed, bold"
    rows = [row.text for card in picture.cards for row in card.rows]
    titles = [card.title for card in picture.cards]
    for token, meaning in LEGEND:
        if any(token in text for text in (*rows, *titles)):
            yield meaning


def _wrap(words: Iterable[str], layout: Layout) -> list[str]:
    longest = int((max(layout.width, NARROWEST) - 4 * PADDING) / CHARACTER)
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 4 + len(word) <= longest:
            lines[-1] += f"    {word}"
        else:
            lines.append(word)
    return lines


def _number(value: float) -> str:
    """Tenths of a pixel are enough; the same digits everywhere."""
    return f"{value:.1f}".removesuffix(".0")
