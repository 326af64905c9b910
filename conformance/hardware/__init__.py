"""The processor by itself, rule by rule: walks, permissions, flags, two dimensions, and what it remembers."""
