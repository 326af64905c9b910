"""What the model cannot do yet."""


class CannotRun(Exception):
    """A step that the model has no mechanism for.

    Attributes
    ----------
    step :
        Its number in the scenario, from 0; those within `smm` and `nested` count too.
    what :
        What is missing.

    """

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"step {step}: the model cannot {what} yet")
        self.step = step
        self.what = what
