"""The candidates that a server has so far: texts that were written, filtered, voted on and selected.

    add           texts + new ones, all of them through the filters: an old one that is repeated may go too
    select_top    of each domain and label the p with the most votes, in the order of their votes

Every stage is noted: how many texts came, how many stayed, and some of them for whoever reads the report.

(m, d) embeddings of m texts, (m,) votes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np

from fedlab.llm.synthesis.few_shot import Demonstrations, Writer
from fedlab.llm.synthesis.text_filter import Text, TextFilter
from fedlab.llm.synthesis.text_packing import pack_texts

SHOWN = 8
"""Texts of a stage that are kept for the report."""


class CandidatePool:
    """Texts with their embeddings and votes; empty to begin with.

    Args:
        text_filter: Filters that they have to pass; a fresh copy counts what does not.
        writer: Writer whose demonstrations must not come back, and whose model judges.
        embedder: Backbone of `fedlab.features`.
        labels: Names of the classes.

    Attributes:
        texts: Texts, m of them.
        embedded, votes: Embeddings (m, d) float32, and votes (m,).
        stages: Notes of each stage: `stage`, `came`, `kept` and `samples`.
    """

    def __init__(self, text_filter: TextFilter, writer: Writer, embedder: Any, labels: Sequence[str]):
        self.text_filter, self.labels = text_filter.fresh(), tuple(labels)
        self._writer, self._embedder = writer, embedder
        self.texts: list[Text] = []
        self.embedded = np.zeros((0, 0), np.float32)
        self.votes = np.zeros(0)
        self.stages: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self, domain: str) -> np.ndarray:
        """Return which texts are of a domain."""
        return np.flatnonzero([one.domain == domain for one in self.texts])

    def by_code(self) -> Demonstrations:
        """Return the texts by domain and label, in their order."""
        texts: dict[tuple[str, str], list[str]] = {}
        for one in self.texts:
            texts.setdefault((one.domain, one.label), []).append(one.text)
        return texts

    def add(self, new: Sequence[Text], stage: str, seed: int) -> None:
        """Take in new texts, filter all, and open the votes anew.

        Args:
            new: Texts written by a model or by clients' generators.
            stage: Name under which it is noted.
            seed: Seed of the filter's clusters.
        """
        text_filter, writer = self.text_filter, self._writer
        kept = text_filter.words([*self.texts, *new], writer.prompts.texts())
        kept = text_filter.label_consistency(kept, self.labels, writer.prompts.asks, writer.likelihood)
        self.embedded = self._embedder.extract([one.text for one in kept]).astype(np.float32)
        kept = self._stay(kept, text_filter.meaning(self.embedded, seed))
        # A judge is asked last: it is paid for every text.
        self.texts = self._stay(kept, text_filter.eligible(kept, self.embedded, seed, writer.judge, writer.answer))
        self.votes = np.zeros(len(self.texts))
        self._note(stage, len(new))

    def select_top(self, places: Callable[[str, str, int], int], stage: str) -> None:
        """Keep the texts with the most votes, of each domain and label.

        Args:
            places: Function of (domain, label, how many there are) to how many stay.
            stage: Name under which it is noted.
        """
        stays = np.zeros(len(self.texts), bool)
        for code in dict.fromkeys((one.domain, one.label) for one in self.texts):
            rows = np.flatnonzero([(one.domain, one.label) == code for one in self.texts])
            order = rows[np.argsort(-self.votes[rows], kind="stable")]
            stays[order[: places(*code, len(rows))]] = True
        before = len(self.texts)
        order = np.flatnonzero(stays)[np.argsort(-self.votes[stays], kind="stable")]
        self.texts, self.embedded = [self.texts[row] for row in order], self.embedded[order]
        self.votes = self.votes[order]
        self.text_filter.dropped["outvoted"] += before - len(self.texts)
        self._note(stage, before)

    def model(self) -> dict[str, np.ndarray]:
        """Return what a client learns from: `text` and `ends` of the texts, `labels` (m,) and `embedded` (m, d)."""
        labels = np.array([self.labels.index(one.label) for one in self.texts], np.int64)
        packed = pack_texts([one.text for one in self.texts])
        return {**packed, "labels": labels, "embedded": self.embedded}

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {
            "pool": [[one.text, one.domain, one.label] for one in self.texts],
            "embedded": self.embedded,
            "votes": self.votes,
            "dropped": dict(self.text_filter.dropped),
            "asked": dict(self.text_filter.judged),
            "stages": self.stages,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` once returned."""
        self.texts = [Text(*fields) for fields in state["pool"]]
        self.embedded, self.votes = state["embedded"], state["votes"]
        self.text_filter.dropped.update(state["dropped"])
        self.text_filter.judged.update(state["asked"])
        self.stages = list(state["stages"])

    def _stay(self, texts: Sequence[Text], stays: np.ndarray) -> list[Text]:
        self.embedded = self.embedded[stays]
        return list(compress(texts, stays))

    def _note(self, stage: str, came: int) -> None:
        samples = [[one.domain, one.label, one.text] for one in self.texts]
        step = max(1, len(samples) // SHOWN)
        self.stages.append({"stage": stage, "came": came, "kept": len(samples), "samples": samples[::step][:SHOWN]})
