"""The TDP MMU: guest-physical memory mapped through NPT or EPT."""
