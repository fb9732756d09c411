"""What is kept of written texts: enough words, none twice, none that only repeats its prompt, the likeliest label.

    short        fewer than `min_words` words
    repeated     equal to one before it, or to a demonstration, when spaces, case and marks are taken away
    near         |e_i - e_j|^2 < 2 - 2 s for an earlier text j: the cosine of the two is above s
    crowded      beyond the first `per_cluster` of its cluster: k-means, ceil(n / 4) clusters
    doubtful     log p(label | text) below that of another label, by the language model that wrote it
    ineligible   left out by the same model in a chat, asked once for each cluster which of its texts are eligible

Every text that goes is counted under the name of why, and nothing goes unsaid: see `TextFilter.dropped`. Filters that
trust a client's weak local model throw away what that model lacks, so there is none here.

Li et al., FDKT, 2024, https://arxiv.org/abs/2405.14212, section 4 (filter by clusters). e (n, d) embeddings of unit
norm, s in (-1, 1].
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float32, Int64

from fedlab import checks
from fedlab.llm.language_model import Completion, Prompt
from fedlab.llm.synthesis.judge_answers import numbers_in
from fedlab.llm.synthesis.text_packing import normal

Likelihoods = Callable[[Sequence[str], Sequence[str]], np.ndarray]
"""(prompts, continuations) to the log likelihood of each continuation, (n,)."""
JUDGES = ("likelihood", "chat")
"""How a language model judges: by the probability of a label, or by what it answers when it is asked."""
AT_ONCE = 16
"""Texts that a judge is asked about in one prompt, at most: a cluster may be large, and a context is not."""


@dataclass(frozen=True)
class Text:
    """A text somebody wrote.

    Attributes:
        text: Words of the text.
        domain, label: Domain that it was to be about, and label that it was to have.
    """

    text: str
    domain: str
    label: str


@dataclass(frozen=True)
class TextFilter:
    """Which filters, in this order.

    Args:
        min_words: Words that a text must have.
        similarity: Cosine above which two texts are one; 1 keeps all that are not equal.
        per_cluster: Texts of a cluster that are kept; None does not cluster.
        judge: Way in which the language model judges. 'likelihood': texts go whose label it doubts, for one that
            follows no instructions. 'chat': those that it leaves out when it is asked, for one that does. None judges
            nothing.

    Attributes:
        dropped: Reasons to how many texts were dropped so far.
        judged: Number of 'questions' to the judge, and of answers that could not be read by the reasons of
            `fedlab.llm.synthesis.judge_answers`.
    """

    min_words: int = 4
    similarity: float = 0.95
    per_cluster: int | None = None
    judge: str | None = None
    dropped: Counter[str] = field(default_factory=Counter, compare=False)
    judged: Counter[str] = field(default_factory=Counter, compare=False)

    def __post_init__(self) -> None:
        checks.integer("min_words", self.min_words, least=1, remedy="an empty text teaches nothing")
        checks.number("similarity", self.similarity, above=-1, most=1, remedy="0.95 drops near copies")
        if self.per_cluster is not None:
            checks.integer("per_cluster", self.per_cluster, least=1, remedy="or null for no clusters")
        if self.judge is not None:
            checks.choice("judge", self.judge, JUDGES)

    def fresh(self) -> TextFilter:
        """Return the same filters with nothing dropped yet."""
        return replace(self, dropped=Counter(), judged=Counter())

    def words(self, texts: Iterable[Text], known: Iterable[str] = ()) -> list[Text]:
        """Return texts long enough that say nothing said before.

        Args:
            texts: Texts in their order; the first of equal ones stays.
            known: Demonstrations of the prompts, and whatever else must not come back.
        """
        kept, seen = [], set(map(normal, known))
        for one in texts:
            words = normal(one.text)
            if len(one.text.split()) < self.min_words:
                self.dropped["short"] += 1
            elif words in seen:
                self.dropped["repeated"] += 1
            else:
                seen.add(words)
                kept.append(one)
        return kept

    def meaning(self, embedded: Float32[np.ndarray, "n d"], seed: int) -> Bool[np.ndarray, " n"]:
        """Return which texts stay of those that mean the same, and of those that crowd.

        Args:
            embedded: Embeddings of unit norm, in the order in which texts stay.
            seed: Seed of the clusters.
        """
        stays = np.ones(len(embedded), bool)
        if self.similarity < 1 and len(embedded):
            near = np.tril(embedded @ embedded.T > self.similarity, -1)
            for row in range(len(embedded)):  # what is gone itself drops nobody
                stays[row] = not (near[row] & stays).any()
            self.dropped["near"] += int((~stays).sum())
        if self.per_cluster is None or stays.sum() < 2:
            return stays
        rows = np.flatnonzero(stays)
        cluster_of, distance = clusters(embedded[rows], seed)
        for cluster in range(cluster_of.max() + 1):
            members = rows[cluster_of == cluster]
            order = np.argsort(distance[cluster_of == cluster], kind="stable")
            stays[members[order[self.per_cluster :]]] = False
            self.dropped["crowded"] += max(0, len(members) - self.per_cluster)
        return stays

    def label_consistency(
        self, texts: Sequence[Text], labels: Sequence[str], question: Callable[[str, str], str], likelihood: Likelihoods
    ) -> list[Text]:
        """Return the texts whose label the language model finds no less likely than another.

        Args:
            texts: Texts of one domain or of several.
            labels: Labels, all there are.
            question: Function of (domain, text) to what is asked; a label is its continuation.
            likelihood: Log likelihoods of a language model.
        """
        if self.judge != "likelihood" or not texts:
            return list(texts)
        questions = [question(one.domain, one.text) for one in texts for _ in labels]
        answers = [f" {label}" for _ in texts for label in labels]
        log_p = likelihood(questions, answers).reshape(len(texts), len(labels))
        # A model that prefers one label whatever it reads would drop all of the others: what counts is how it
        # differs from its own habit.
        likeliest = (log_p - log_p.mean(0)).argmax(1).tolist()
        kept = [one for one, label in zip(texts, likeliest, strict=True) if labels[label] == one.label]
        self.dropped["doubtful"] += len(texts) - len(kept)
        return kept

    def eligible(
        self,
        texts: Sequence[Text],
        embedded: Float32[np.ndarray, "n d"],
        seed: int,
        question: Callable[[Sequence[Text]], Prompt],
        answer: Callable[[Sequence[Prompt]], Iterable[Completion]],
    ) -> Bool[np.ndarray, " n"]:
        """Return which texts a judge finds eligible; those of an answer that cannot be read stay, and it is counted.

        Near copies lie in one cluster, so whoever is asked about a cluster sees them side by side.

        Args:
            texts, embedded: Texts and their embeddings, n of each.
            seed: Seed of the clusters.
            question: Function that makes a prompt, which shows some texts by numbers from 1 on.
            answer: Function that answers prompts, in their order.
        """
        stays = np.ones(len(texts), bool)
        if self.judge != "chat" or not texts:
            return stays
        groups = list(_groups(clusters(embedded, seed)[0]))
        prompts = [question([texts[row] for row in rows]) for rows in groups]
        for rows, completion in zip(groups, answer(prompts), strict=True):
            numbers = numbers_in(completion, len(rows), self.judged)
            stays[rows] = [number in numbers for number in range(1, len(rows) + 1)]
        self.judged["questions"] += len(groups)
        self.dropped["ineligible"] += int((~stays).sum())
        return stays


def clusters(
    embedded: Float32[np.ndarray, "n d"], seed: int
) -> tuple[Int64[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """Return the cluster of each text and its distance from the cluster's mean: k-means, ceil(n / 4) clusters.

    Args:
        embedded: Embeddings, n > 0 of them.
        seed: Seed of the first means.
    """
    from sklearn.cluster import KMeans

    # There are no more clusters than different texts: k-means would warn of empty ones.
    number = min(math.ceil(len(embedded) / 4), len(np.unique(embedded, axis=0)))
    means = KMeans(number, n_init="auto", random_state=seed).fit(embedded)
    labels = np.asarray(means.labels_, np.int64)
    return labels, means.transform(embedded)[np.arange(len(embedded)), labels]


def _groups(cluster_of: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the rows of each cluster, of a large one in parts."""
    for cluster in range(cluster_of.max() + 1):
        rows = np.flatnonzero(cluster_of == cluster)
        yield from (rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE))


def counted(dropped: Mapping[str, int]) -> str:
    """Return what was dropped, for people: '3 short, 12 near'; 'nothing' where nothing was."""
    return ", ".join(f"{number} {why}" for why, number in dropped.items() if number) or "nothing"
