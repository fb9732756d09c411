"""Shapes stand in the types; here they are checked at every call of the mathematics."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook(["fedlab.stats", "fedlab.gradient", "clients"], "beartype.beartype")

import torch  # noqa: E402 - whatever imports these must come after the hook

# Programs that a test calls by name are those beside this Python, whether or not its environment is activated.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
# A loaded machine is no fault of the code.
settings.register_profile("fedlab", deadline=None)
settings.load_profile("fedlab")
# The tests' matrices are small: a second thread waits more than it works.
torch.set_num_threads(1)


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return request.param
