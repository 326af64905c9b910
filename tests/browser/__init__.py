"""The report in a real browser. Not collected with the rest: `make browser` sets it up and names the files."""
