"""Every statement of mmu.rst, held against the model; `violations` holds the wrong models that prove it."""
