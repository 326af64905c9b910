"""A page as a tree, read strictly: an end tag that does not fit is an error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = frozenset({"meta", "input", "br", "link", "img", "hr"})


@dataclass(slots=True)
class Element:
    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[Element | str] = field(default_factory=list)

    def all(self, tag: str = "", **wanted: str) -> Iterator[Element]:
        """Every element below, in order; `class_` has to be one of its classes, other attributes equal."""
        for child in self.children:
            if isinstance(child, Element):
                if child.fits(tag, wanted):
                    yield child
                yield from child.all(tag, **wanted)

    def one(self, tag: str = "", **wanted: str) -> Element:
        found = [*self.all(tag, **wanted)]
        assert len(found) == 1, f"{len(found)} of <{tag} {wanted}>"
        return found[0]

    def fits(self, tag: str, wanted: dict[str, str]) -> bool:
        attributes = {name.rstrip("_").replace("_", "-"): value for name, value in wanted.items()}
        in_class = attributes.pop("class", None)
        return (
            tag in ("", self.tag)
            and all(self.attributes.get(name) == value for name, value in attributes.items())
            and (in_class is None or in_class in self.attributes.get("class", "").split())
        )

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Element("")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read(page: str) -> Element:
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert len(reader.open) == 1, f"never closed: {[each.tag for each in reader.open[1:]]}"
    return reader.open[0]
