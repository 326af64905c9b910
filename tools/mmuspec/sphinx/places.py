"""Finds statements in the tree that Sphinx has made of the document, and puts a mark behind each.

Letters and digits are what both agree on: punctuation may have been made typographic, lines may have been joined.
Statements come one after the other, so each is looked for near the end of the one before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from docutils import nodes

NOT_WORDS: Final = re.compile(r"[\W_]+")
CLOSING: Final = re.compile(r"[^\w\s]*")
NEAR: Final = 2000
"""Letters after the last statement found within which the next one begins."""
UNSAID: Final = (
    nodes.comment,
    nodes.raw,
    nodes.system_message,
    nodes.substitution_definition,
    nodes.title,
    nodes.subtitle,
)
"""What has words that are in no statement."""


@dataclass(slots=True)
class _Letters:
    """All letters of a tree, and of each the node and the place in it."""

    letters: str = ""
    texts: list[nodes.Text] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)


def put(tree: nodes.Element, marks: Sequence[tuple[str, nodes.Element]]) -> int:
    """Put marks behind words, which come in the order of the tree; gives how many found their place."""
    stream = _letters(tree)
    found: list[tuple[nodes.Text, int, nodes.Element]] = []
    cursor = 0
    for words, mark in marks:
        key = NOT_WORDS.sub("", words)
        place = stream.letters.find(key, cursor, cursor + NEAR + len(key)) if key else -1
        if place >= 0:
            cursor = place + len(key)
            text, offset = stream.places[cursor - 1]
            found.append((stream.texts[text], offset + 1, mark))
    _Insertion().all(found)
    return len(found)


def _letters(tree: nodes.Element) -> _Letters:
    stream, parts = _Letters(), []
    for text in tree.findall(nodes.Text):
        if any(isinstance(each, UNSAID) for each in _above(text)):
            continue
        for offset, character in enumerate(text):
            if not NOT_WORDS.match(character):
                parts.append(character)
                stream.places.append((len(stream.texts), offset))
        stream.texts.append(text)
    stream.letters = "".join(parts)
    return stream


def _above(node: nodes.Node) -> Iterable[nodes.Element]:
    while node.parent is not None:
        node = node.parent
        yield node


class _Insertion:
    """Marks that go into a tree from its end to its beginning, so that places found before stay right."""

    def __init__(self) -> None:
        self.left: dict[int, nodes.Text] = {}
        self.keep: list[nodes.Text] = []  # so that no id is used twice

    def all(self, found: Sequence[tuple[nodes.Text, int, nodes.Element]]) -> None:
        for text, offset, mark in reversed(found):
            block = next((each for each in _above(text) if isinstance(each, nodes.FixedTextElement)), None)
            if block is not None:
                self._below(block, mark)
            else:
                self._behind(text, offset, mark)

    def _below(self, block: nodes.Element, mark: nodes.Element) -> None:
        """Lines of a literal block stay as they are: their marks stand below it."""
        parent = block.parent
        place = _index(parent, block) + 1
        after = parent[place] if place < len(parent) else None
        if isinstance(after, nodes.paragraph) and "mmuspec-marks" in after["classes"]:
            after.insert(0, mark)
        else:
            parent.insert(place, nodes.paragraph("", "", mark, classes=["mmuspec-marks"]))

    def _behind(self, text: nodes.Text, offset: int, mark: nodes.Element) -> None:
        """Behind the last word and what closes it; behind the markup that the word is in."""
        inline = [each for each in _above(text) if isinstance(each, nodes.Inline)]
        if not inline:
            self._split(text, self.left.get(id(text), text), offset, mark)
            return
        parent = inline[-1].parent
        place = _index(parent, inline[-1]) + 1
        after = parent[place] if place < len(parent) else None
        if isinstance(after, nodes.Text):
            self._split(after, after, 0, mark)
        else:
            parent.insert(place, mark)

    def _split(self, text: nodes.Text, words: nodes.Text, offset: int, mark: nodes.Element) -> None:
        """`words` is what is left in the tree of `text`."""
        said = str(words)
        closing = CLOSING.match(said, offset)
        end = closing.end() if closing else offset
        left, right = nodes.Text(said[:end]), nodes.Text(said[end:])
        parent = words.parent
        place = _index(parent, words)
        parent[place : place + 1] = [each for each in (left, mark, right) if each is mark or str(each)]
        self.left[id(text)] = left
        self.keep.append(text)


def _index(parent: nodes.Element, child: nodes.Node) -> int:
    """Where `child` itself is: texts that read the same are equal."""
    return next(place for place, each in enumerate(parent.children) if each is child)
