"""What a patch series does to the document: ``mmuspec review``.

The way of a series: files → `mailbox` → messages → `series` → patches → `patching` → documents → `examine`
→ findings → `text`, `markdown` or `data_form`.
"""
