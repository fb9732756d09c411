"""FDKT's client: says privately what its texts are like, and teaches its own small model with what comes back.

    synthesise   a language model tuned on its texts by DP-SGD writes others           (who has the means)
    vote         N(h, m^2 I), h_j the private texts nearest to candidate j             (everyone)
    teach        min  CE(private) + w CE(the server's texts), of a small model         (at home; nothing is sent)

A client holds many texts, of which few are labelled: the generator and the votes learn from all of them, the small
model from the labelled. Neither texts nor embeddings of theirs leave; the small model stays at home too. All noise is
the client's own, so the server need not be trusted; what each step spends is public and is the ledger's.

Li et al., FDKT, 2024, https://arxiv.org/abs/2405.14212; Xie et al., Aug-PE, ICML 2024, https://arxiv.org/abs/2403.01749
(votes). (n, d) embeddings of private texts, (k, d) of candidates, h (k,).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor

from fedlab import checks
from fedlab.data.dataset import Split
from fedlab.errors import BadInput, unknown
from fedlab.llm.backends.transformers_model import LocalModel
from fedlab.llm.synthesis.budget import Budget
from fedlab.llm.synthesis.text_packing import pack_texts, unpack_texts
from fedlab.llm.tuning.generator_cache import recalled
from fedlab.llm.tuning.private_generator import PrivateGenerator, Written, sample
from fedlab.llm.tuning.small_model import Head, Labelled, SmallModel, Taught
from fedlab.method import Arrays, Config, Learner, Memory, Samples
from fedlab.privacy.dpsgd.private_gradient import generator_of
from fedlab.privacy.mechanisms.noise_source import check_entropy, noise
from fedlab.privacy.mechanisms.vote_histogram import histogram, noisy

Said = tuple[dict[str, np.ndarray], dict[str, bytes]]
SMALL_MODEL = "small_model"
"""Under which a client remembers its small model, as safetensors."""


@dataclass(frozen=True)
class Private:
    """What a client has: texts, embeddings x (n, d) and labels (n,), of which it knows the first `labelled`."""

    x: np.ndarray
    labels: np.ndarray
    split: Split
    labelled: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def texts(self) -> list[str]:
        """The n texts."""
        assert isinstance(self.split.inputs, list)
        return self.split.inputs


@dataclass(frozen=True)
class FDKT(Learner):
    """One client, whatever its domain.

    Args:
        num_classes: Number of classes c.
        labels: Names of the classes in prompts and control codes.
        budget: Budget of what is released, and its noise; the server has the same.
        group: Group of a text that names its domain.
        domain: Domain of all clients, where no group tells it.
        texts: Number of private texts of a client, at most; None is all it has.
        labelled: Number of them that have a label.
        small_model: Learner of the labels: a head on the embeddings, or a network of its own.
        generator, base: Tuning of a generator, and the language model that is tuned; None where clients only vote.
        samples_per_class: Number of texts that a generator writes for each label.
        min_words: Number of words of the shortest text that is sent.
        entropy: Source of the noise: 'seeded', or 'os' for noise that nobody can draw again.

    Raises:
        BadInput: One of them is out of range.
    """

    num_classes: int
    labels: Sequence[str]
    budget: Budget
    group: str = "domain"
    domain: str | None = None
    texts: int | None = None
    labelled: int = 50
    small_model: SmallModel = field(default_factory=Head)
    generator: PrivateGenerator | None = None
    base: LocalModel | None = None
    samples_per_class: int = 50
    min_words: int = 10
    entropy: str = "seeded"

    remembers = reads_texts = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        if len(self.labels) != self.num_classes:
            raise BadInput(f"labels={list(self.labels)} name {len(self.labels)} of {self.num_classes} classes")
        for name in ("labelled", "samples_per_class", "min_words", *(["texts"] if self.texts is not None else [])):
            checks.integer(name, getattr(self, name), least=1)
        if (self.generator is None) != (self.base is None):
            raise BadInput("generator and base belong together: give both, or neither for clients that only vote")
        check_entropy(self.entropy)

    def respond(
        self, arrays: Arrays, config: Config, samples: Samples, memory: Memory, who: int, clients: int, seed: int
    ) -> tuple[dict[str, np.ndarray], Memory]:
        """Return the answer to one step, and what to remember.

        Raises:
            BadInput: The step is unknown, or the server reckons with another noise than this client adds.
        """
        steps = {"hello": self._hello, "synthesise": self._synthesise, "vote": self._vote, "teach": self._teach}
        step, noise = config.get("step"), config.get("noise")
        if step not in steps:
            raise unknown("step of FDKT", step, steps)
        if noise is not None and noise != (own := self.budget.terms):
            raise BadInput(f"the server reckons with noise {noise}, this client adds {own}: give both the same budget")
        x, labels, split = samples()
        private = self.private(x, labels, split, self.of(int(str(config["run-seed"])), who))
        answer, new = steps[str(step)](private, arrays, seed)
        return answer, {**memory, **new}

    def private(self, x: Tensor, labels: Tensor, split: Split, seed: int) -> Private:
        """Return what a client has of what is its own: some texts, fewer labels; the same for the same seed."""
        order = np.random.default_rng(seed).permutation(len(labels))
        rows = order if self.texts is None else order[: self.texts]
        return Private(
            x.cpu().numpy()[rows], labels.cpu().numpy()[rows], split.take(rows), min(self.labelled, len(rows))
        )

    def domains(self, split: Split) -> np.ndarray:
        """Return the domain of each text, (n,); BadInput where nothing says it."""
        if self.domain is not None:
            return np.full(len(split), self.domain)
        if self.group not in split.groups:
            raise BadInput(
                f"texts have the groups {sorted(split.groups)}, and no {self.group!r} to name their domain: choose "
                "one by model.group, or name it by model.domain"
            )
        return split.groups[self.group]

    def taught(self, private: Private, arrays: Arrays, seed: int) -> Taught:
        """Return the small model after the labelled texts and the server's, without which training is local.

        The server's are `text` and `ends`, `embedded` (m, d) and `labels` (m,); the small model draws by the seed.
        """
        n, d = private.labelled, private.x.shape[1]
        own = Labelled(private.x[:n], private.labels[:n], private.texts[:n])
        synthetic = Labelled(
            arrays.get("embedded", np.zeros((0, d), np.float32)).reshape(-1, d),
            arrays.get("labels", np.zeros(0, np.int64)),
            unpack_texts(arrays) if "text" in arrays else [],
        )
        return self.small_model.teach(own, synthetic, self.num_classes, seed)

    @staticmethod
    def of(run_seed: int, who: int) -> int:
        """Return the seed of what a client has, the same in every round of a run."""
        return int(np.random.SeedSequence([run_seed, who]).generate_state(1)[0])

    # -- the steps: what is sent, and what is remembered ---------------------------------------------------------

    def _hello(self, private: Private, arrays: Arrays, seed: int) -> Said:
        """The domain is public: it is what the client asks for. How many texts of a label it has is noised."""
        named = self.domains(private.split)
        answer = pack_texts([str(named[0]) if len(named) else ""])
        if self.budget.labels:
            own = private.labels[: private.labelled]
            counts = np.bincount(own, minlength=self.num_classes).astype(np.float64)
            answer["counts"] = self._noised(counts, seed, "labels", private.labels.tobytes())
        return answer, {}

    def _synthesise(self, private: Private, arrays: Arrays, seed: int) -> Said:
        """Texts for every label, as many for each: how many texts of a class there are does not show."""
        if self.generator is None or self.base is None:
            return {}, {}
        generator, base = self.generator, self.base
        *codes, alone = unpack_texts(arrays)
        if len(codes) != self.num_classes:
            raise BadInput(f"the server names codes for {len(codes)} of {self.num_classes} labels")
        n = private.labelled
        behind = [codes[label] for label in private.labels[:n]]
        # Whatever has no label stands behind a code without one, and teaches the same model.
        behind += [alone] * (len(private) - n)
        drawn = self._drawn_for(seed, "generator", repr(generator), base.fingerprint(), *behind, *private.texts)

        def write() -> Written:
            module, tokenizer = base.module_and_tokenizer()
            noise, secure = generator_of(self.entropy, drawn), self.entropy == "os"
            tuned, _ = generator.fit(module, tokenizer, behind, private.texts, noise, secure=secure)
            limits = {"max_tokens": generator.max_tokens, "min_words": self.min_words}
            return sample(tuned, tokenizer, codes, self.samples_per_class, seed, **limits)

        if self.entropy == "seeded":
            written = recalled(write, drawn, seed, codes, self.samples_per_class, self.min_words)
        else:
            written = write()
        labels = np.array([codes.index(code) for code in written.codes], np.int64)
        return {**pack_texts(written.texts), "labels": labels}, {}

    def _vote(self, private: Private, arrays: Arrays, seed: int) -> Said:
        candidates = arrays["embedded"].astype(np.float32).reshape(-1, private.x.shape[1])
        counts = histogram(private.x.astype(np.float32), candidates)
        return {"votes": self._noised(counts, seed, "votes", candidates.tobytes())}, {}

    def _teach(self, private: Private, arrays: Arrays, seed: int) -> Said:
        return {}, {SMALL_MODEL: save(self.taught(private, arrays, seed).weights)}

    def _noised(self, counts: np.ndarray, seed: int, purpose: str, *about: bytes) -> np.ndarray:
        # About anything else, other noise: the same noise on two histograms would give both away.
        drawn = self._drawn_for(seed, purpose, repr(self.budget), *about, counts.tobytes())
        return noisy(counts, self.budget.votes_multiplier, noise(self.entropy, seed, f"{purpose} {drawn:x}"))

    def _drawn_for(self, seed: int, *parts: str | bytes) -> int:
        digest = hashlib.sha256(str(seed).encode())
        for part in parts:
            if isinstance(part, str):  # a class renamed must not draw other noise
                part = part.replace("PrivateGenerator(", "Generator(").encode(errors="replace")
            digest.update(b"\0" + part)
        return int.from_bytes(digest.digest()[:16])

    # -- what the server's side of the method asks -----------------------------------------------------------------

    def initial(self, d0: int, seed: int) -> dict[str, np.ndarray]:
        """Return the model before there is one: no texts."""
        return {**pack_texts([]), "labels": np.zeros(0, np.int64), "embedded": np.zeros((0, d0), np.float32)}

    def scores(self, arrays: Arrays, h: Tensor) -> Tensor:
        """Return the logits of a head that has seen the server's texts and nothing else: (n, c).

        The server knows test texts as embeddings only. A small model that reads the texts themselves is not what is
        judged here: a head stands for it, and says how good the texts are (`SmallModel.judge`).
        """
        embedded, labels = arrays["embedded"], arrays["labels"]
        judge = self.small_model.judge
        head = _head_of(judge, self.num_classes, embedded.shape, embedded.tobytes(), labels.tobytes())
        return torch.from_numpy(judge.scores({"weight": head}, h.cpu().numpy()))


@lru_cache(maxsize=1)  # test samples are judged part by part, each by the same head
def _head_of(head: Head, num_classes: int, shape: tuple[int, int], embedded: bytes, labels: bytes) -> np.ndarray:
    """Return the head that these texts alone teach."""
    synthetic = np.frombuffer(embedded, np.float32).reshape(shape)
    none = synthetic[:0], np.zeros(0, np.int64)
    return head.fit(*none, synthetic, np.frombuffer(labels, np.int64), num_classes, 0)
