"""Which mutants are judged: each place at which a kind of mutation can act counts once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from mutants.judge import compiled
from mutants.left_out import Sites, left_out
from mutants.mutations import Mutant, mutants_of
from mutants.project import Project


@dataclass
class Population:
    """The places of a project's package.

    Parameters
    ----------
    places :
        The mutants of each place that are fair.
    left_out :
        How many places were left out, for each kind of them.

    """

    places: list[list[Mutant]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def population(project: Project, paths: list[str]) -> Population:
    """All places in these files."""
    found = Population()
    for path in paths:
        sites = Sites(project.read(path))
        places: dict[object, list[Mutant]] = {}
        for mutant in mutants_of(project, path):
            places.setdefault(mutant.place, []).append(mutant)
        for mutants in places.values():
            kinds = [left_out(sites.site(mutant)) for mutant in mutants]
            fair = [mutant for mutant, kind in zip(mutants, kinds, strict=True) if not kind]
            if fair:
                found.places.append(fair)
            else:
                found.left_out[kinds[0]] += 1
    return found


def draw(project: Project, of: Population, size: int, seed: int) -> Iterator[Mutant]:
    """Mutants by lot, one a place; a larger sample of the same seed begins with the smaller one.

    A mutant that is no Python, or the same program as before, is none: the place draws again.
    """
    chance = random.Random(seed)  # noqa: S311  what is drawn is no secret
    for place in chance.sample(of.places, len(of.places)):
        if size == 0:
            return
        for mutant in chance.sample(place, len(place)):
            if compiled(project, mutant):
                size -= 1
                yield mutant
                break
