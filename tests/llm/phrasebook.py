"""A language model that is a book of phrases: it writes a sentence of the domain and label that a prompt names."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from fedlab.data.sources.phrases import NOUNS, WORDS, Phrases
from fedlab.llm.language_model import Completion, LanguageModel, Prompt


@dataclass
class Phrasebook(LanguageModel):
    """Knows every noun and word of the made-up texts; now and then it answers nothing, or is cut.

    It takes the settings of the tiny model, in whose place it stands.
    """

    seed: int = 0
    context: int = 2048
    batch: int = 16
    asked: list[Prompt] = field(default_factory=list)

    def fingerprint(self) -> str:
        return "phrasebook"

    def _complete(self, prompts, sampling, seeds, arrived):
        for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            self.asked.append(prompt)
            arrived(index, self._answer(prompt, np.random.default_rng(seed)))

    def _log_likelihood(self, prompts, continuations, rows):
        """The label whose words a text has is the likelier."""
        for row, (prompt, continuation) in enumerate(zip(prompts, continuations, strict=True)):
            words = sum(word in prompt for word in WORDS.get(continuation.strip(), ()))
            rows[row] = words - 3.0, 1.0

    def _answer(self, prompt: Prompt, draw: np.random.Generator) -> Completion:
        if not isinstance(prompt, str):
            return self._verdict(prompt[-1].content)
        label = next(name for name in WORDS if name in prompt)
        domain = next(name for name in NOUNS if re.search(rf"about {name}\b", prompt))
        chance = draw.random()
        if chance < 0.05:
            return Completion("", 1, 20, "stop")
        if chance < 0.1:
            return Completion("and then the", 60, 20, "length")
        return Completion(f" {Phrases()._phrase(domain, label, draw)}", 14, 20, "stop")

    @staticmethod
    def _verdict(question: str) -> Completion:
        """Of numbered texts those are eligible that have a word of their label, but for those about coffee."""
        found = re.findall(r"^(\d+)\. \(.*, (\w+)\) (.*)$", question, re.MULTILINE)
        right = [n for n, label, text in found if any(w in text for w in WORDS[label]) and "coffee" not in text]
        return Completion(" and ".join(right) or "none", 5, 20, "stop")
