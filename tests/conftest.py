"""Shapes stand in the types; here they are checked at every call of the mathematics."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import config, install_import_hook

install_import_hook(["fedlab.stats", "fedlab.gradient", "clients"], "beartype.beartype")

import torch  # noqa: E402 - whatever imports these must come after the hook

from fedlab.engine.simulation.allocator import keep_freed_memory  # noqa: E402

# Programs that a test calls by name are those beside this Python, whether or not its environment is activated.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
# Ray's workers are nice to others: among tests that run at once they would wait for all of them.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - the name that Ray reads
# Whoever starts the tests in the background of a shell has them ignore Ctrl-C, and with them all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# A loaded machine is no fault of the code.
settings.register_profile("fedlab", deadline=None)
settings.load_profile("fedlab")
# Thousands of tests allocate and free arrays of some megabytes: their pages need not fault in each time.
keep_freed_memory()
# The tests' matrices are small: a second thread waits more than it works.
torch.set_num_threads(1)


CHECKED = ("stats", "gradient", "clients", "conformance/test_learners.py")
"""Tests in which shapes are checked: of the mathematics by itself. Whole runs call it a thousand times as often."""


@pytest.fixture(scope="module", autouse=True)
def shapes(request):
    here = request.path.relative_to(Path(__file__).parent).as_posix()
    config.update("jaxtyping_disable", not here.startswith(CHECKED))
    yield
    config.update("jaxtyping_disable", False)


class Clock:
    """A clock that stands still until it is put forward: in this process, a sleep takes no time and is no chance."""

    def __init__(self) -> None:
        self.now = 1000.0

    def skip(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    for name in ("monotonic", "perf_counter"):
        monkeypatch.setattr(time, name, lambda: found.now)
    monkeypatch.setattr(time, "sleep", found.skip)
    return found


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return request.param
