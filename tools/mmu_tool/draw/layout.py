"""Where everything of a picture is, in pixels; what it looks like is `svg`'s."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from .match import Change
from .picture import Card, Link, Picture, Row
from .text import clip

CHARACTER: Final = 6.7  # width of one at 11 px in any of the usual monospaced fonts
LINE: Final = 15
PADDING: Final = 8
SIGN: Final = 12  # the gutter in which the signs of changes stand
GAP_X: Final = 58
GAP_Y: Final = 14
TOP: Final = 84
NARROWEST: Final = 120
SLACK: Final = 1.15  # how much taller than its tallest column a picture may be, for straighter links

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A card and its place; words and rows have a line each, the title the first."""

    card: Card
    x: float
    y: float
    width: float

    @property
    def height(self) -> float:
        return _height(self.card)

    @property
    def entrance(self) -> Point:
        """Where links end."""
        return self.x, self.y + PADDING + LINE / 2

    def line(self, number: int) -> float:
        """The middle of a line; the title is number 0."""
        return self.y + PADDING + (number + 0.5) * LINE

    def rows(self) -> Iterator[tuple[float, Row]]:
        """Each row with the middle of its line."""
        first = 1 + len(self.card.words)
        return ((self.line(first + number), row) for number, row in enumerate(self.card.rows))


@dataclass(frozen=True)
class Path:
    """A link as drawn: points between which it runs, in pairs from right to left edge of a gap."""

    points: tuple[Point, ...]
    change: Change
    link: Link


@dataclass(frozen=True)
class Layout:
    """A picture with places."""

    picture: Picture
    width: float
    height: float
    headings: tuple[tuple[float, str], ...]
    boxes: tuple[Box, ...]
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class _Lane:
    """Room for links that pass a column on their way to a card further right."""

    target: str
    height: float = LINE


def lay_out(picture: Picture) -> Layout:
    """Columns from the left, in each the cards near what points to them."""
    return _Laying(picture).layout()


class _Laying:
    """One picture on its way to its places."""

    def __init__(self, picture: Picture) -> None:
        self.picture = picture
        self.columns: dict[int, list[Card]] = defaultdict(list)
        for card in picture.cards:
            self.columns[card.column].append(card)
        self.column_of = {card.key: card.column for card in picture.cards}
        self.x, self.widths = self._widths()
        self.lanes = self._lanes()
        self.tallest = SLACK * max((self._stacked(column) for column in picture.headings), default=0)
        self.boxes: dict[str, Box] = {}
        self.lane_y: dict[tuple[int, str], float] = {}

    def layout(self) -> Layout:
        for column in sorted(self.picture.headings):
            self._place(column)
        boxes = tuple(self.boxes[card.key] for card in self.picture.cards)
        right = max((self.x[c] + self.widths[c] for c in self.picture.headings), default=0)
        return Layout(
            picture=self.picture,
            width=right + PADDING * 2,
            height=max((box.y + box.height for box in boxes), default=TOP) + GAP_Y,
            headings=tuple((self.x[c], text) for c, text in sorted(self.picture.headings.items())),
            boxes=boxes,
            paths=tuple(self._paths()),
        )

    def _widths(self) -> tuple[Mapping[int, float], Mapping[int, float]]:
        places, widths, x = {}, {}, float(PADDING * 2)
        for column in sorted(self.picture.headings):
            longest = max((_longest(card) for card in self.columns[column]), default=0)
            places[column] = x
            widths[column] = max(NARROWEST, longest * CHARACTER + 2 * PADDING + SIGN)
            x += widths[column] + GAP_X
        return places, widths

    def _links(self) -> Iterator[tuple[Card, Row, Link]]:
        """Those that can be drawn: they lead to the right, as in any sound state."""
        for card in self.picture.cards:
            for row in card.rows:
                for link in row.links:
                    if self.column_of.get(link.target, -1) > card.column:
                        yield card, row, link

    def _lanes(self) -> Mapping[int, list[_Lane]]:
        lanes: dict[int, dict[str, _Lane]] = defaultdict(dict)
        for card, _, link in self._links():
            for column in range(card.column + 1, self.column_of[link.target]):
                lanes[column][link.target] = _Lane(link.target)
        return {column: list(found.values()) for column, found in lanes.items()}

    def _stacked(self, column: int) -> float:
        return _stacked([*self.columns[column], *self.lanes.get(column, [])])

    def _place(self, column: int) -> None:
        """From the top down, each as near to what points to it as the others allow."""
        wanted = self._wanted(column)
        inside: list[Card | _Lane] = [*self.columns[column], *self.lanes.get(column, [])]
        inside.sort(key=lambda each: wanted.get(_key(each), inf))  # stable: others stay in order
        cursor = float(TOP)
        for position, each in enumerate(inside):
            lowest = TOP + self.tallest - _stacked(inside[position:])
            y = max(cursor, min(wanted.get(_key(each), cursor), lowest))
            if isinstance(each, Card):
                self.boxes[each.key] = Box(each, self.x[column], y, self.widths[column])
            else:
                self.lane_y[column, each.target] = y + each.height / 2
            cursor = y + (_height(each) if isinstance(each, Card) else each.height) + GAP_Y

    def _wanted(self, column: int) -> dict[str, float]:
        """The top that would make the links to each card straight: the mean of where they come from."""
        sources: dict[str, list[float]] = defaultdict(list)
        for card, row, link in self._links():
            if card.column >= column or self.column_of[link.target] < column:
                continue
            before = self.lane_y.get((column - 1, link.target))
            sources[link.target].append(self._source(card, row) if before is None else before)
        return {target: sum(ys) / len(ys) - PADDING - LINE / 2 for target, ys in sources.items()}

    def _source(self, card: Card, row: Row) -> float:
        return next(y for y, each in self.boxes[card.key].rows() if each is row)

    def _paths(self) -> Iterator[Path]:
        for card, row, link in self._links():
            start, end = self.boxes[card.key], self.boxes[link.target]
            points: list[Point] = [(start.x + start.width, self._source(card, row))]
            for column in range(card.column + 1, end.card.column):
                y = self.lane_y[column, link.target]
                points += [(self.x[column], y), (self.x[column] + self.widths[column], y)]
            change = card.change if row.change is Change.NONE else row.change
            yield Path((*points, end.entrance), change, link)


def _key(each: Card | _Lane) -> str:
    return each.key if isinstance(each, Card) else each.target


def _height(card: Card) -> float:
    return (1 + len(card.words) + len(card.rows)) * LINE + 2 * PADDING


def _stacked(inside: Sequence[Card | _Lane]) -> float:
    heights = [_height(each) if isinstance(each, Card) else each.height for each in inside]
    return sum(heights) + GAP_Y * max(0, len(heights) - 1)


def _longest(card: Card) -> int:
    texts = [card.title + " + new", *card.words, *(row.text for row in card.rows)]
    return max(len(clip(text)) for text in texts)
