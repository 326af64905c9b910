"""Everything that is looked for in the text of a statement, as a table: topic, and the check."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mmuspec.document import Document, Item, Statement
from mmuspec.review.contradictions import contradictions
from mmuspec.review.figures import wrong_figures
from mmuspec.review.finding import Topic
from mmuspec.review.names import Names
from mmuspec.review.references import missing_files, missing_sections
from mmuspec.review.trees import Tree


@dataclass(frozen=True, slots=True)
class Scene:
    """What a statement is held against: the document it stands in, names, and a kernel tree if there is one."""

    document: Document
    names: Names
    tree: Tree | None


Check = Callable[[Item, Statement, Scene], Iterator[str]]


def _names(item: Item, statement: Statement, scene: Scene) -> Iterator[str]:
    del item
    for name, near in scene.names.unknown(statement.text):
        hint = f"; did you mean {near}?" if near else ""
        yield f"{name} is no field, function or constant that is known here{hint}"


def _figures(item: Item, statement: Statement, scene: Scene) -> Iterator[str]:
    del scene
    yield from wrong_figures(statement.text, item.names)


def _contradictions(item: Item, statement: Statement, scene: Scene) -> Iterator[str]:
    del item, scene
    for message in contradictions(statement.text):
        yield f"the sentence contradicts itself: it {message}"


def _references(item: Item, statement: Statement, scene: Scene) -> Iterator[str]:
    del item
    yield from missing_sections(statement.text, scene.document)
    yield from missing_files(statement.text, scene.tree.has_file if scene.tree else None)


# For text that a patch adds or rewords; what stands around it is held against the second table only.
NEW_TEXT: tuple[tuple[Topic, Check], ...] = (
    (Topic.CONTRADICTION, _contradictions),
    (Topic.FIGURE, _figures),
    (Topic.NAME, _names),
    (Topic.REFERENCE, _references),
)
CONTEXT: tuple[tuple[Topic, Check], ...] = (
    (Topic.CONTRADICTION, _contradictions),
    (Topic.FIGURE, _figures),
)
