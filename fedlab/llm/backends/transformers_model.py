"""A causal model of transformers in this process: asked for texts, or taken to be tuned; loaded when it is needed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from fedlab.llm.language_model import Arrived, LanguageModel, Prompt, Sampling

if TYPE_CHECKING:
    from fedlab.llm.backends.causal import Causal


class LocalModel(LanguageModel):
    """What such models share, wherever their weights come from."""

    _loaded: Causal | None = None

    @abstractmethod
    def load(self) -> Causal:
        """Return the model with its weights."""

    def module_and_tokenizer(self) -> tuple[Any, Any]:
        """Return the network and its tokenizer, for whoever tunes a copy of it.

        Raises:
            BadInput: The model cannot be loaded.
        """
        model = self._model()
        return model.network, model.tokenizer

    def close(self) -> None:
        """Let the weights go."""
        self._loaded = None

    def _complete(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int], arrived: Arrived) -> None:
        self._model().complete(prompts, sampling, seeds, arrived)

    def _log_likelihood(
        self, prompts: Sequence[str], continuations: Sequence[str], rows: Float64[np.ndarray, "n 2"]
    ) -> None:
        self._model().log_likelihood(prompts, continuations, rows)

    def _model(self) -> Causal:
        if self._loaded is None:
            self._loaded = self.load()
        return self._loaded
