"""Runs a scenario on the model, as ``kvm_live`` runs it on a real kernel.

``build`` makes the VM, ``interpreter`` is the guest, ``userspace`` the process that runs it; ``scenario`` puts
them together and gives what a recording holds.
"""

from .errors import RunError
from .scenario import run_scenario, unexpected

__all__ = ["RunError", "run_scenario", "unexpected"]
