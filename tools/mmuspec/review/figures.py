"""Numbers and ranges in a statement, held against `data/figures.yaml`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from mmuspec.review.data import data

NUMBER_WORDS = {"one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"}
UNITS = "KMGTP"
SIZE = re.compile(r"([\d.]+)\s?([kKMGTP])i?B?$")
RANGE = re.compile(r"\b0\s*(?:\.\.|-|to|through)\s*(?P<most>\d+)\b")
EITHER = re.compile(r"\bcan be 0 or (?P<most>\d+)\b")
WIDTH = re.compile(r"\b(?P<bits>\d+)[- ]bits?\b(?!\s+(?:hosts?|guests?|kernels?|[sg]?ptes?|spte|gpte))")
VALUE = re.compile(r"^(?:Is|Contains|Set to)\s+'?(?P<value>\d+)'?\s+(?:if|when)\b")
SETTING = re.compile(r"\b(?P<name>[A-Za-z_][\w.]*\w)\s*=\s*(?P<value>\d+)")
COUNTED = re.compile(r"\b(?P<count>\d+)-(?P<unit>[a-z]+)")


def wrong_figures(text: str, names: Sequence[str]) -> Iterator[str]:
    """What is wrong with the numbers of a statement; `names` are those of the field that it is about."""
    facts = data("figures")
    for figure in facts["figures"]:
        if re.search(figure["near"], " ".join((*names, text)), re.IGNORECASE):
            yield from _against(figure, text)
    for name in names:
        if name in facts["widths"]:
            yield from wrong_widths(name, facts["widths"][name], text)
    yield from _settings(text, facts)


def _against(figure: Mapping[str, Any], text: str) -> Iterator[str]:
    for found in re.finditer(figure["pattern"], text, re.IGNORECASE):
        key = found.groupdict().get("key")
        known = figure["is"]
        right = [known[key.lower()]] if key else list(known)
        if _plain(found["value"]) not in map(_plain, right):
            of = f" ({key})" if key else ""
            yield f"{figure['about']}{of}: {' or '.join(right)}, not {found['value']} ({figure['from']})"


def wrong_widths(name: str, bits: int, text: str) -> Iterator[str]:
    """What a statement says of a field that has not room for it."""
    most = (1 << bits) - 1
    for pattern in (RANGE, EITHER):
        for found in pattern.finditer(text):
            if int(found["most"]) > most:
                yield f"{name} has {_bits(bits)}, so it is {most} at most, not {found['most']}"
    for found in VALUE.finditer(text):
        if int(found["value"]) > most:
            yield f"{name} has {_bits(bits)}, so it cannot be {found['value']}"
    for found in WIDTH.finditer(text):
        if int(found["bits"]) != bits and re.search(rf"\b(?:field|{re.escape(name)})\b|\bwide\b", text):
            yield f"{name} has {_bits(bits)}, not {found['bits']}"


def _settings(text: str, facts: Mapping[str, Any]) -> Iterator[str]:
    """A setting that is said to be one, and to mean what it does not: values of fields, levels of paging."""
    for found in SETTING.finditer(text):
        name, value = found["name"], found["value"]
        if name in facts["widths"] and int(value) >= 1 << facts["widths"][name]:
            yield f"{name} has {_bits(facts['widths'][name])}, so it cannot be {value}"
        setting = next((s for key, s in facts["settings"].items() if key.lower() == name.lower()), None)
        before = list(COUNTED.finditer(text, 0, found.start())) if setting else []
        near = next((c for c in reversed(before) if setting and c["unit"] == setting["unit"]), None)
        if setting and near and near["count"] not in setting["counts"].get(value, [near["count"]]):
            right = "/".join(setting["counts"][value])
            unit = setting["unit"]
            yield f"{name}={value} is {right}-{unit} paging, and stands here with {near['count']}-{unit}"


def _plain(value: str) -> str:
    """A number or size in one form: ``three`` is ``3``, ``0.5TB`` is ``512G``."""
    value = NUMBER_WORDS.get(value.lower(), value)
    size = SIZE.match(value)
    if not size:
        return value
    try:
        count, unit = Decimal(size[1]), size[2].upper()
    except InvalidOperation:
        return value
    while count < 1 and unit != UNITS[0]:
        count, unit = count * 1024, UNITS[UNITS.index(unit) - 1]
    return f"{count.normalize():f}{unit}"


def _bits(bits: int) -> str:
    return f"{bits} bit" if bits == 1 else f"{bits} bits"
