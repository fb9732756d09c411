"""A language model that is a book of phrases: it writes a sentence of the domain and label that a prompt names."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from fedlab.data.phrases import NOUNS, WORDS, Phrases
from fedlab.llm.models import Completion, LanguageModel


@dataclass
class Phrasebook(LanguageModel):
    """Knows every noun and word of the made-up texts; now and then it answers nothing, or is cut.

    It takes the settings of the tiny model, in whose place it stands.
    """

    seed: int = 0
    context: int = 2048
    batch: int = 16
    asked: list[str] = field(default_factory=list)

    def fingerprint(self) -> str:
        return "phrasebook"

    def complete(self, prompts, sampling, seeds, progress=None, *, arrived=None):
        answers = []
        for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            self.asked.append(prompt)
            answers.append(self._answer(prompt, np.random.default_rng(seed)))
            if arrived is not None:
                arrived(index, answers[-1])
        return answers

    def log_likelihood(self, prompts, continuations):
        """The label whose words a text has is the likelier."""
        found = []
        for prompt, continuation in zip(prompts, continuations, strict=True):
            said = sum(word in prompt for word in WORDS.get(continuation.strip(), ()))
            found.append([float(said) - 3.0, 1.0])
        return np.array(found)

    def close(self) -> None:
        pass

    def _answer(self, prompt: str, draw: np.random.Generator) -> Completion:
        label = next(name for name in WORDS if name in prompt)
        domain = next(name for name in NOUNS if re.search(rf"about {name}\b", prompt))
        chance = draw.random()
        if chance < 0.05:
            return Completion("", 1, 20, "stop")
        if chance < 0.1:
            return Completion("and then the", 60, 20, "length")
        return Completion(f" {Phrases()._phrase(domain, label, draw)}", 14, 20, "stop")
