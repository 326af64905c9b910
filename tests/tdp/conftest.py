"""What the tests of the TDP MMU begin with."""

import pytest

from conformance.scenes import Scene
from tests.tdp.touched import touched_guest


@pytest.fixture
def scene() -> Scene:
    """A guest that has touched a few pages."""
    return touched_guest()
