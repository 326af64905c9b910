"""Does the document hold? Tests by its sections, wrong models that prove them, predicates on real kernels."""
