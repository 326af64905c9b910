"""What ends a run before its time."""


class NotModelled(Exception):
    """The guest does what processors can, and the model's cannot."""


class RunError(Exception):
    """KVM refuses what a step asks for, or the guest cannot go on: ``FILE:LINE: error: ...``."""

    def __init__(self, where: str, line: int, what: str) -> None:
        super().__init__(f"{where}:{line}: error: {what}")
