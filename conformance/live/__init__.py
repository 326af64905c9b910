"""What the document says of any state of the MMU, as predicates on a snapshot, recorded or modelled.

Each predicate names its statements and has a corruption: a changed snapshot that it must refuse. ``roles``,
``links``, ``sync`` and ``memory`` hold them by what they look at.
"""

from . import links, memory, roles, sync
from .predicate import PREDICATES, Predicate

__all__ = ["PREDICATES", "Predicate", "links", "memory", "roles", "sync"]
