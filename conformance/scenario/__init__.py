"""Scenario files and what is made of them: what is refused, and what a run of them does."""
