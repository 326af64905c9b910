"""Scenarios: short YAML programs that a real kernel and the model both run.

``schema`` holds the types, ``read`` makes them from a file, ``slots`` those of memory, ``tables`` builds the guest's
page tables, ``compile`` turns a scenario into a step list and memory, ``layout`` says where they lie in the guest, and
``touches`` what one step touches, the interpreter's own accesses included.
"""

from .compile import HostCall, HostOp, Program, Record, compile_scenario
from .layout import Op
from .read import read_scenario
from .schema import Mode, Scenario, ScenarioError
from .touches import Touch, touches

__all__ = [
    "HostCall",
    "HostOp",
    "Mode",
    "Op",
    "Program",
    "Record",
    "Scenario",
    "ScenarioError",
    "Touch",
    "compile_scenario",
    "read_scenario",
    "touches",
]
