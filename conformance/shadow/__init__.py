"""The shadow MMU below and between the statements: faults, synchronization, what goes and what stays."""
