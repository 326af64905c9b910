"""Fixtures of the tests of the processor."""

import pytest

from conformance.hardware.machine import MODES, Machine


@pytest.fixture(params=MODES, ids=lambda mode: mode.value)
def machine(request: pytest.FixtureRequest) -> Machine:
    """A machine of each paging mode in turn."""
    return Machine(request.param)
