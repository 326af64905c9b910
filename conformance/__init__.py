"""Does the document hold? Tests by its sections, and predicates on what real kernels built."""
