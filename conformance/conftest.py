"""Fixtures of all conformance tests, and how a violation breaks the model."""

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest
from hypothesis import settings

from conformance import violations
from conformance.broken import BrokenModel
from conformance.pictures import NEWEST, Attach, Camera
from conformance.scenario.short_scenarios import Reader
from mmu_model.kernels import KERNELS
from mmu_model.scenario import Scenario, read_scenario
from mmu_model.snapshot import MmuKind
from mmuspec.violations import Violation

settings.register_profile("unhurried", deadline=None)  # no test fails because a machine is slow
settings.load_profile("unhurried")

for _module in iter_modules(violations.__path__):
    import_module(f"{violations.__name__}.{_module.name}")


@pytest.fixture(params=list(KERNELS))
def kernel(request: pytest.FixtureRequest) -> str:
    """Each kernel in turn."""
    return str(request.param)


@pytest.fixture(params=list(MmuKind), ids=lambda kind: kind.value)
def mmu(request: pytest.FixtureRequest) -> MmuKind:
    """Each MMU in turn: the TDP MMU, direct pages of the shadow MMU, shadow paging."""
    kind: MmuKind = request.param
    return kind


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    """Reads a scenario from text: that of the file ``some.yaml``."""

    def reads(text: str) -> Scenario:
        path = tmp_path / "some.yaml"
        path.write_text(text)
        return read_scenario(path)

    return reads


@pytest.fixture
def picture(request: pytest.FixtureRequest, attach: Attach) -> Camera:
    """Attaches a drawing of what the test saw: ``picture(title, vm)``, or ``picture(title, after, before)``."""
    parameters = getattr(getattr(request.node, "callspec", None), "params", {})
    return Camera(attach, str(parameters.get("kernel", NEWEST)))


def pytest_mmuspec_violate(violation: Violation) -> AbstractContextManager[None]:
    """The model is broken as the violation does it, for as long as the context lasts."""
    return _broken(violation)


@contextmanager
def _broken(violation: Violation) -> Iterator[None]:
    model = BrokenModel()
    try:
        violation.apply(model)
        yield
    finally:
        model.restore()


def pytest_collection_finish() -> None:
    """What has been collected stays: the garbage collector need not look at it again."""
    gc.collect()
    gc.freeze()
