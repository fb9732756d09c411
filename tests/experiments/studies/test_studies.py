"""The studies find what they claim: one head in every cell, exact sums where the pairwise law drifts."""

from __future__ import annotations

import json
from dataclasses import fields

import torch
from safetensors.numpy import load_file

from experiments.main import main
from experiments.studies.afl_pairwise import local_solution
from fedlab.tracking.outcome import PHASES, Outcome


def study(tmp_path, *overrides: str) -> dict:
    assert main(["run", f"hydra.run.dir={tmp_path / 'run'}", *overrides]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results) >= {"experiment", *(field.name for field in fields(Outcome))}
    assert set(results["seconds"]) == set(PHASES)
    assert load_file(tmp_path / "run" / "model.safetensors")
    return results["study"]


def test_invariance_has_one_head_in_exact_mode(tmp_path):
    small = ["features.expansion.width=64", "study.clients=[1,10,100]", "study.alpha=[0.01,iid]"]
    found = study(tmp_path, "experiment=afl_invariance", *small)
    assert found["heads"] == 1 and len(found["rows"]) == 6
    assert (tmp_path / "run" / "figures" / "invariance.png").exists()


def test_the_study_would_notice_a_broken_invariance(tmp_path):
    # float64 sums round differently in every cell: the study must count more than one head.
    small = ["features.expansion.width=64", "study.clients=[1,10,100]", "study.alpha=[0.01,iid]", "mode=float64"]
    found = study(tmp_path, "experiment=afl_invariance", *small)
    assert found["heads"] > 1
    assert len({row["accuracy"] for row in found["rows"]}) == 1


def test_dummy_data_stays_exact_where_the_law_without_intermediary_fails(tmp_path):
    small = ["study.samples=1000", "study.features=64", "study.clients=[2,10,50]"]
    rows = study(tmp_path, "experiment=afl_dummy", *small)["rows"]
    assert all(row["error"] < 1e-10 for row in rows)
    assert rows[-1]["pairwise_error_without_ridge"] > 1e-3, "50 clients of 20 samples at d=64 are rank-deficient"


def test_without_a_ridge_the_law_takes_the_pseudo_inverse():
    # 4 samples at d = 8: rounding leaves pivots of 1e-17 where there should be none, and inv would take them.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 8, generator=generator, dtype=torch.float64)
    y = torch.eye(4, dtype=torch.float64)
    weight, gram = local_solution(x, y, ridge=0.0)
    assert torch.allclose(weight, torch.linalg.pinv(x) @ y, atol=1e-10)
    assert torch.allclose(gram, x.T @ x)
