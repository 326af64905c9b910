"""The command ``mmu-model``, and what stands around the model and is no part of it: pictures, campaigns, cases."""
