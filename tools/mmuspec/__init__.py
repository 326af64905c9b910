"""Extract, keep, check and report what mmu.rst states. Knows nothing of the model."""
