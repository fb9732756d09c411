"""FDKT over real Flower processes: three SuperNodes, a domain each; the server's texts are those of the simulation."""

import json
import os
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from fedlab.llm.synthesis.text_packing import unpack_texts
from tests.deployment.programs import RETRY_FOR, ROOT, Command

pytestmark = pytest.mark.timeout(600)


@pytest.mark.skipif(
    "FEDLAB_SLOW" not in os.environ,
    reason="one to four minutes, mostly of loading: FEDLAB_SLOW=1 runs it; tests/strategies/test_fdkt.py has the steps",
)
def test_a_deployment_of_fdkt_writes_the_texts_of_the_simulation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    words = ["experiment=fdkt_tiny", "clients=3", "llm._target_=tests.llm.phrasebook.Phrasebook"]
    # Noise of the operating system is never twice the same, and a deployment takes no other: so there is none.
    words += ["entropy=os", "methods.fdkt.epsilon=null"]
    words += ["methods.fdkt.generator=null", "methods.fdkt.base=null"]
    done = Command(tmp_path, "--out", "out", *words)
    assert done.wait(2 * RETRY_FOR) == 0, done.said()
    assert done.said()[-1] == "the same head, to the bit"  # which is one of texts, labels and embeddings
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    texts = unpack_texts(load_file(tmp_path / "out" / "model.safetensors"))
    assert (result["rounds"], result["metrics"]["texts"]) == (3, len(texts))
    assert {"soup", "train", "song"} & set(" ".join(texts).split()) and result["privacy"] is None
    assert result["faults"]["failed"] == {} and done.left() == ""
