"""What the document says, asked of what was recorded, or modelled.

Predicates hold in any state; ``roles``, ``links``, ``sync``, ``memory`` and ``frames`` have them by what they look at.
Readings are predicates that are told the guest's own tables too: ``translations``, ``tables``, ``sizes``.
Stories tell what an event changes, accounts what a whole recording tells, with what the guest read and its faults:
``stories``, ``faults``, ``mmio``, ``events``, ``switches``, ``write_protect``, ``hardware``; ``refuted`` where it is
other than the document says. Each names its statements, and comes with something it must refuse.
"""

from . import (
    events,
    faults,
    frames,
    hardware,
    links,
    memory,
    mmio,
    refuted,
    roles,
    sizes,
    stories,
    switches,
    sync,
    tables,
    translations,
    write_protect,
)
from .account import ACCOUNTS, Account
from .predicate import PREDICATES, Predicate
from .reading import READINGS, Reading
from .story import STORIES, Story

__all__ = [
    "ACCOUNTS",
    "PREDICATES",
    "READINGS",
    "STORIES",
    "Account",
    "Predicate",
    "Reading",
    "Story",
    "events",
    "faults",
    "frames",
    "hardware",
    "links",
    "memory",
    "mmio",
    "refuted",
    "roles",
    "sizes",
    "stories",
    "switches",
    "sync",
    "tables",
    "translations",
    "write_protect",
]
