"""A document of our own that has every construct of the real one, and a few that only older ones have."""

GADGET = """\
.. SPDX-License-Identifier: Apache-2.0

=================
The gadget cache
=================

The cache (in lib/gadget, files gadget.[ch] and slot_tmpl.h) keeps gadgets, i.e. things that
turn.  It is small.

It meets the following requirements:

- speed:
\t       a lookup takes one step, e.g. one
               comparison
- honesty:
               never return a gadget that was not put in

Acronyms
========

====  ==============================================
gdt   gadget, turning
slt   slot (a place for one gadget, or for
      none)
====  ==============================================

Slots
=====

The following table shows what a slot holds:

 Plain slots::

  empty:        nothing
  full, hot:    (key->)gadget
  shared:       key->gadget  (*)

  (*) the sharer counts the key->gadget pairs
      if nobody else does

Slots contain the following information:
  state.level:
    The level of the slot in the tower.
    1=small slots, 2=large slots, etc.
  state.kind:
    If set, the slot is one of gdt.h's (see below)
    If clear, it is not.
  use_count / tower_use_count:
     use_count counts users.  tower_use_count is alike (a.b && !c.d) but
     atomic.
  owner:
    Points to the owner.

Events
======

- gadget removal

The cause can be:

  - a true removal (*)
  - a move
    - to another slot
    - out of the tower (*)
  - nothing at all

  (*) not in plain mode

Handling is as follows:

 - find the slot

   - wake its owner

 - see Documentation/gadget/locking.rst for the rest
"""
