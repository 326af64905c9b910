"""What the model cannot do yet."""


class CannotRun(Exception):
    """A step that the model has no mechanism for; the message says where it is.

    Parameters
    ----------
    where, line :
        The scenario's file, and the step's line in it.
    what :
        What is missing.

    """

    def __init__(self, where: str, line: int, what: str) -> None:
        super().__init__(f"{where}:{line}: error: the model cannot {what} yet; a real kernel can (kvm-live)")
