"""How much of the model would go wrong unseen: mutants of `mmu_model`, hunted by `conformance/` alone.

project -> mutations -> left_out -> baseline -> judge -> score: what is mutated, what can be done to it, what is
no fair mutant, which tests see it, whether one of them fails, and what that comes to.
"""
