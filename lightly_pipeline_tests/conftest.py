"""What every test stands on: no test can reach real AWS or the real Pexels."""

import os
import signal
import sys

import pytest

# Before NumPy is imported, and for every process that a test starts: OpenBLAS's threads wait by spinning, so that two
# processes on two busy cores stand still for minutes over small products.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background jobs ignore Ctrl-C, and so would every process that a test starts and interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["lightly_pipeline_tests.sandbox_fixtures"]

_NOWHERE = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    # The discard port: a client that a test did not point at its sandbox is refused at once.
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "PEXELS_API_ROOT": "http://127.0.0.1:9",
    "PEXELS_API_KEY": "test",
    "DAGSTER_DISABLE_TELEMETRY": "1",
}
_KEPT = "LIGHTLY_TEST_VIDEOS"


@pytest.fixture(scope="session", autouse=True)
def _nothing_leaves_this_machine():
    patch = pytest.MonkeyPatch()
    for name in list(os.environ):
        if name.startswith(("AWS_", "PEXELS_", "LIGHTLY_", "DAGSTER_HOME")) and name != _KEPT:
            patch.delenv(name)
    for name, value in _NOWHERE.items():
        patch.setenv(name, value)
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def _no_test_changes_the_priority():
    """A test that left its process a real-time one starved all others, and whatever waits for them."""
    before = os.sched_getscheduler(0) if sys.platform == "linux" else None
    yield
    if sys.platform == "linux":
        assert os.sched_getscheduler(0) == before
