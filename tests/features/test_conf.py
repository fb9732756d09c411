from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from experiments.config.signatures import fill

FOLDER = Path(__file__).parents[2] / "conf" / "features"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_choice_of_features_can_be_built(path):
    config = OmegaConf.merge({"features": OmegaConf.load(path)}, {"seed": 7})
    fill(config)
    if path.stem == "huggingface":
        config.features.backbone.id = "owner/name"  # the one thing a user must say
    fill(config)
    assert config.features.name == path.stem
    assert config.features.limit > 0
    # one by one: inside a larger node Hydra would wrap these dataclasses in a config of their fields
    assert instantiate(config.features.backbone).kinds
    expansion = instantiate(config.features.expansion)
    assert expansion.out_features(64) in (64, 2048)
    assert getattr(expansion, "seed", 7) == 7
