"""What the document says, asked of snapshots, recorded or modelled.

Predicates hold in any state; ``roles``, ``links``, ``sync`` and ``memory`` have them by what they look at.
``stories`` tell what an event changes, ``refuted`` where it is other than the document says. Each names its
statements, and comes with something it must refuse.
"""

from . import links, memory, refuted, roles, stories, sync
from .predicate import PREDICATES, Predicate
from .story import STORIES, Story

__all__ = [
    "PREDICATES",
    "STORIES",
    "Predicate",
    "Story",
    "links",
    "memory",
    "refuted",
    "roles",
    "stories",
    "sync",
]
