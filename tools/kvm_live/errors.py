"""The one error a user sees."""


class LiveError(Exception):
    """What happened, and what to do. The command line prints it and ends with 2."""
