from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from experiments.config.signatures import fill
from fedlab.llm.language_model import LanguageModel

FOLDER = Path(__file__).parents[2] / "conf" / "llm"
SAID = {  # what a user must say
    "endpoint": {"base_url": "http://127.0.0.1:9/v1", "model": "m"},
    "gguf": {"path": "model.gguf"},
    "huggingface": {"id": "owner/name"},
}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_choice_of_a_language_model_can_be_built_and_costs_nothing(path):
    config = OmegaConf.merge({"llm": OmegaConf.load(path)}, {"seed": 7, "device": "cpu"})
    if "defaults" in config.llm:
        base = OmegaConf.load(FOLDER / f"{config.llm.defaults[0]}.yaml")
        del config.llm["defaults"]
        config.llm = OmegaConf.merge(base, config.llm)
    config.llm = OmegaConf.merge(config.llm, SAID.get(path.stem, {}))
    fill(config)
    with instantiate(config.llm) as model:
        assert isinstance(model, LanguageModel)
        assert model.cost([]).requests == 0
