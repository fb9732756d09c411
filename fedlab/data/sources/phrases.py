"""Made-up texts of a few domains and two labels: what needs texts can be tried in seconds, with nothing to fetch.

    text = opening + noun of the domain + verb + word of the label + ending        every part drawn by the seed

No one wrote them and they are nobody's, so they say nothing about how well a method works on real ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedlab import checks
from fedlab.data.dataset import Dataset, Split, hold_out
from fedlab.randomness import rng_for

NOUNS = {
    "food": ("soup", "bread", "salad", "coffee", "cake", "rice", "cheese", "pasta"),
    "travel": ("train", "hotel", "beach", "flight", "museum", "guide", "harbour", "ticket"),
    "music": ("song", "drummer", "album", "concert", "violin", "chorus", "singer", "melody"),
}
WORDS = {
    "negative": ("awful", "poor", "dull", "sad", "broken", "boring", "dirty", "late"),
    "positive": ("lovely", "great", "fine", "bright", "perfect", "charming", "fresh", "superb"),
}
OPENINGS = ("I think the", "We found that the", "Everyone said the", "To me the", "In the end the")
VERBS = ("was", "seemed", "felt", "turned out", "looked")
ENDINGS = ("this time", "as always", "for the price", "from the first minute", "and my friends agree")


@dataclass(frozen=True)
class Phrases:
    """Sentences of ten words or so.

    Args:
        each: Sentences per domain.
        seed: Seed of the sentences and of the split.
        test: Share held out, stratified by domain and label.
    """

    each: int = 60
    seed: int = 0
    test: float = 0.25

    def load(self) -> Dataset:
        """Return the texts, with groups {"domain"}.

        Raises:
            BadInput: Fewer than 10 sentences of a domain.
        """
        checks.integer("each", self.each, least=10, remedy="fewer sentences of a domain cannot be split")
        draw = rng_for(self.seed, "phrases")
        domains = np.repeat(list(NOUNS), self.each)
        labels = draw.integers(0, 2, len(domains))
        names = list(WORDS)
        texts = [self._phrase(domain, names[label], draw) for domain, label in zip(domains, labels, strict=True)]
        everything = Split(texts, labels, {"domain": domains})
        strata = 2 * np.repeat(np.arange(len(NOUNS)), self.each) + labels
        train, test = hold_out(strata, self.test, self.seed)
        return Dataset("phrases", "text", everything.take(train), everything.take(test), tuple(names))

    def _phrase(self, domain: str, label: str, draw: np.random.Generator) -> str:
        def one(parts: Sequence[str]) -> str:
            return parts[int(draw.integers(len(parts)))]

        noun, other = one(NOUNS[domain]), one(NOUNS[domain])
        opinion = f"{one(OPENINGS)} {noun} {one(VERBS)} {one(WORDS[label])}"
        return f"{opinion} and the {other} {one(VERBS)} {one(WORDS[label])} {one(ENDINGS)}"
