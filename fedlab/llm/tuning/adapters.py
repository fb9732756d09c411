"""What of a language model is trained under differential privacy, and what has to stay as it is.

    lora                  W x + (alpha / r) B A x       A (r, d) and B (d', r) are trained, W is not
    frozen_embeddings     everything but embeddings, and but a head whose weights they are
    full                  everything that Opacus can bound

Noise grows with the root of the number of parameters that are trained, and so does the time to clip them; LoRA
trains few of them. Each family has parts that Opacus cannot bound, for they do not see which text a row belongs
to or keep buffers; these are frozen by name. Whatever else it cannot treat is refused by name.

Hu et al., LoRA, ICLR 2022, https://arxiv.org/abs/2106.09685; under privacy: Yu et al., ICLR 2022,
https://arxiv.org/abs/2110.06500. r rank, d inputs, d' outputs of a layer.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fedlab import checks
from fedlab.errors import BadInput
from fedlab.extras import needs
from fedlab.llm.tuning.losses import kind_of
from fedlab.privacy.dpsgd.per_sample import check_module

KINDS = ("lora", "frozen_embeddings", "full")
"""What may be trained."""

TARGETS = {"gpt2": ("c_attn",), "t5": ("q", "k", "v", "o"), "bert": ("query", "key", "value")}
"""The layers beside which LoRA is trained, by family: the projections of attention."""
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
"""What these are called in every other family that is known: Llama, Mistral, Qwen, Gemma."""

UNBOUNDED = {
    "gpt2": ("wpe",),  # without position ids of every text it is shown one row for all
    "bert": ("position_embeddings",),
    "t5": ("relative_attention_bias",),  # one bias serves all texts
    "gemma3_text": ("embed_tokens",),  # it scales by a buffer
}
"""The parts that Opacus cannot bound, by family."""


@dataclass(frozen=True)
class Adapters:
    """What is trained.

    Args:
        kind: Kind of adapters: one of `KINDS`.
        rank, alpha: Rank r >= 1 and scale alpha > 0 of LoRA.
        targets: Names of the layers beside which LoRA is trained; None takes those of `TARGETS`, or `PROJECTIONS`.
    """

    kind: str = "lora"
    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        checks.choice("kind of adapters", self.kind, KINDS)
        checks.integer("rank", self.rank, least=1)
        checks.number("alpha", self.alpha, above=0, remedy="a common choice is twice the rank")

    def prepare(self, model: nn.Module, seed: int) -> nn.Module:
        """Return the model to train; the one that is given stays as it is, and shares its frozen weights.

        Args:
            model: Model of Hugging Face, without adapters.
            seed: Seed of the adapters' first weights, which must not depend on data.

        Raises:
            BadInput: It has adapters already, LoRA does not know where to go, or a trainable part cannot be bounded.
        """
        if hasattr(model, "peft_config"):
            raise BadInput("the model has adapters already: merge them (merge_and_unload()), or give its base model")
        prepared = self._lora(model, seed) if self.kind == "lora" else self._unfrozen(model)
        for p in prepared.parameters():
            if p.requires_grad:
                p.data = p.data.to(torch.promote_types(p.dtype, torch.float32))
        check_module(prepared)
        return prepared

    def _lora(self, model: nn.Module, seed: int) -> nn.Module:
        with needs("LoRA"):
            import peft
        family = family_of(model)
        layers = {name.rpartition(".")[2] for name, _ in model.named_modules()}
        targets = self.targets or TARGETS.get(family) or [name for name in PROJECTIONS if name in layers]
        if not targets:
            raise BadInput(
                f"LoRA does not know the layers of family {family!r}: known are {', '.join(sorted(TARGETS))}, and "
                f"whatever has {', '.join(PROJECTIONS)}; give targets=[...], the names of its attention's projections"
            )
        config = peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # pyright: ignore[reportArgumentType] - it divides it by r
            target_modules=list(targets),
            lora_dropout=0.0,
            fan_in_fan_out=family == "gpt2",  # its layers keep their weights transposed
            task_type=_TASKS[kind_of(model)],
        )
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())), warnings.catch_warnings():
            torch.manual_seed(seed)
            # peft asks transformers by a name that it will drop: nothing of ours to change.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            try:
                return peft.get_peft_model(_sharing(model), config)  # pyright: ignore[reportArgumentType]
            except ValueError as why:
                raise BadInput(
                    f"no layer of this {family!r} model is called {' or '.join(targets)} ({why}): name those that "
                    "LoRA is to be trained beside in targets=[...]"
                ) from why

    def _unfrozen(self, model: nn.Module) -> nn.Module:
        prepared = copy.deepcopy(model).requires_grad_(True)
        if not all(p.dtype == torch.float64 for p in prepared.parameters()):
            prepared.float()
        names = UNBOUNDED.get(family_of(model), ())
        for name, layer in prepared.named_modules():
            embeds = self.kind == "frozen_embeddings" and isinstance(layer, nn.Embedding)
            if embeds or name.rpartition(".")[2] in names:
                layer.requires_grad_(False)  # and with it a head that has the same weights
        return prepared


def family_of(model: nn.Module) -> str:
    """Return the family of a model of Hugging Face, as its config has it."""
    config: Any = getattr(model, "config", None)
    return str(getattr(config, "model_type", type(model).__name__))


_TASKS = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "class": "SEQ_CLS"}


def _sharing(model: nn.Module) -> nn.Module:
    """Return a copy whose weights are the model's own memory, with flags of its own."""
    shared: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    shared |= {id(buffer): buffer for buffer in model.buffers()}
    return copy.deepcopy(model, shared)
