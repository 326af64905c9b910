"""The shadow MMU: shadow pages found by what they shadow, and kept in step with the guest's tables."""
