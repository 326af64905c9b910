"""The document against the code: ``mmuspec audit``.

`source` reads the files that matter out of a tree, a package or a revision; `members` takes the structs apart;
`compare` holds the fields that the document describes against them; `history` asks git how old a sentence is.
"""
