"""Wrong models on purpose, one file a section of the document."""
