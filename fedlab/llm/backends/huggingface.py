"""Any causal language model of Hugging Face, by id or from a folder, with a LoRA adapter or without.

Pinned before it is asked anything, like the frozen extractors: a folder by the hash of its files, an id by the
commit it resolves to.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedlab import checks
from fedlab.errors import BadInput
from fedlab.extras import needs
from fedlab.features.huggingface import pinned, weights_of
from fedlab.features.weights import file_digest, fingerprint_of
from fedlab.llm.backends.packaged import gemma_folder, packaged_gemma
from fedlab.llm.backends.transformers_model import LocalModel

if TYPE_CHECKING:
    from fedlab.llm.backends.causal import Causal

DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class HuggingFace(LocalModel):
    """A causal language model through `transformers.AutoModelForCausalLM`.

    What a seed promises is said in `causal.py`: the same call gives the same texts, and with `batch=1` the
    same prompt, sampling and seed do, whatever else is asked.

    Args:
        id: Hub id ('google/gemma-3-270m') or path of a folder; None is the packaged Gemma 3 270M.
        revision: Branch, tag or commit of a hub id.
        adapter: Folder of a LoRA adapter that peft saved; None for none.
        device: Device: 'cpu', 'cuda', 'cuda:1', ...
        dtype: Type of the weights: 'float32', 'bfloat16' or 'float16'.
        batch: Prompts at once; halved when memory does not suffice.
        context: Tokens of a prompt and its text together; None is the model's own limit.
    """

    id: str | None = None
    revision: str | None = None
    adapter: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    batch: int = 8
    context: int | None = None

    def __post_init__(self) -> None:
        checks.choice("dtype", self.dtype, DTYPES)
        checks.integer("batch", self.batch, least=1)
        if self.context is not None:
            checks.integer("context", self.context, least=1)

    def fingerprint(self) -> str:
        """Hash the folder's files, or the commit the hub id resolves to, the adapter and the dtype."""
        # the packaged file says it without having been made a network
        weights = file_digest(packaged_gemma()) if self.id is None else weights_of(*pinned(self.id, self.revision))
        return fingerprint_of("causal", weights=weights, adapter=self._adapter_digest(), dtype=self.dtype)

    def load(self) -> Causal:
        """Return the model with its weights.

        Raises:
            BadInput: They cannot be loaded, or the extra is not installed.
        """
        name = self.id or "the packaged Gemma"
        with needs(f"the language model {name!r}"):
            from fedlab.llm.backends.causal import Causal, load
        source, commit = (str(gemma_folder()), None) if self.id is None else pinned(self.id, self.revision)
        adapter = self._adapter_folder()
        network, tokenizer = load(source, revision=commit, adapter=adapter, device=self.device, dtype=self.dtype)
        return Causal(name, network, tokenizer, self.batch, self.context)

    def _adapter_folder(self) -> Path | None:
        if self.adapter is None:
            return None
        folder = Path(self.adapter).expanduser().resolve()
        if not (folder / "adapter_config.json").is_file():
            raise BadInput(f"no adapter_config.json in {folder}: expected the folder peft's save_pretrained wrote")
        return folder

    def _adapter_digest(self) -> dict[str, str]:
        folder = self._adapter_folder()
        return {} if folder is None else {p.name: file_digest(p) for p in sorted(folder.glob("adapter_*"))}
