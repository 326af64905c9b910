"""Snapshots: their words, their canonical form, their differences, and the files of recordings."""
