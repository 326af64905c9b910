"""Orders of what happens at once: explored, written down, replayed."""
