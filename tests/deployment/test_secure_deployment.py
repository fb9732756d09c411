"""A secure sum over real Flower processes: three SuperNodes, keys of the operating system, the simulation's head."""

import json
import os
from pathlib import Path

import pytest

from tests.deployment.programs import RETRY_FOR, Command

pytestmark = pytest.mark.timeout(420)


@pytest.mark.skipif(
    "FEDLAB_SLOW" not in os.environ,
    reason="two minutes, mostly waiting: FEDLAB_SLOW=1 runs it; tests/strategies/test_secagg.py has the same steps",
)
def test_a_deployment_of_the_secure_sum_gives_the_head_of_the_simulation(tmp_path: Path) -> None:
    words = ["methods=[secagg_afl]", "entropy=os", "clients=3", "features.expansion.width=64"]
    done = Command(tmp_path, "--out", "out", *words)
    assert done.wait(RETRY_FOR) == 0, done.said()
    assert done.said()[-1] == "the same head, to the bit"
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (result["rounds"], result["metrics"]["clients_in_sum"]) == (4, 3)
    assert result["faults"]["failed"] == {} and done.left() == ""
