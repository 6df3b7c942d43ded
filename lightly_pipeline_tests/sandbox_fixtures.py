"""An open sandbox for any room's tests: `sandbox` (one per module, fast) and `sandbox_environment`.

The conftest of the suite makes them known everywhere. A test that needs other timings, several instances or a sandbox
of its own opens `Sandbox(...)` itself, in a module that does not use the fixture: moto serves one per process.
"""

from collections.abc import Iterator

import pytest

from lightly_pipeline.sandbox import Sandbox, SandboxTimings
from lightly_pipeline_tests.clips import FOOTAGE_CACHE


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox with fast timings and one instance, in an empty state folder, on a free port."""
    with Sandbox(
        tmp_path_factory.mktemp("sandbox"),
        timings=SandboxTimings.fast(),
        footage=FOOTAGE_CACHE,
        port=0,
    ) as opened:
        yield opened


@pytest.fixture
def sandbox_environment(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The sandbox's environment in os.environ, for this test and the processes it starts; faults cleared after it."""
    environment = sandbox.environment
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    yield environment
    sandbox.faults.clear()
