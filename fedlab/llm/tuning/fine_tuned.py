"""A small model that is fine-tuned as a whole: an encoder of Hugging Face with a layer that names a class.

    min_theta  [ sum_i CE(theta; x_i) + w sum_j CE(theta; s_j) ] / (n + w m)      by AdamW, stopped early

x are private texts, s synthetic ones. With heads of their own the synthetic texts are a second task: the two share the
encoder, and the private head alone answers, so that wrong synthetic labels reach it through the encoder only. The
new head of an encoder begins as the best one on the frozen encoder: from a head that knows nothing few texts would
first spoil the encoder. How it descends and when it stops is said in `training.py`.

Li et al., FDKT, 2024, https://arxiv.org/abs/2405.14212 (augmented loss with a weight of its own); Caruana, Multitask
Learning, Machine Learning 1997 (one encoder, two heads); Kumar et al., Fine-Tuning can Distort Pretrained Features,
ICLR 2022, https://arxiv.org/abs/2202.10054 (first the head, then all). n private and m synthetic texts, c classes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import nn

from fedlab import checks
from fedlab.errors import BadInput
from fedlab.extras import needs
from fedlab.features.backbones import minilm_folder
from fedlab.features.encoders import torch_device
from fedlab.features.huggingface import pinned, weights_of
from fedlab.features.weights import fingerprint_of
from fedlab.llm.tuning.losses import Example, Examples
from fedlab.llm.tuning.small_model import Head, Labelled, Taught, check_weight
from fedlab.llm.tuning.training import AT_ONCE, Training
from fedlab.stats.arithmetic.solve import one_thread

if TYPE_CHECKING:
    from fedlab.llm.tuning.classifier import Classifier

SEEN = "seen"
"""Under which the weights say which labels each head has met, (heads, c); the first head answers."""
_UNSEEN = -10.0  # where a bias begins whose label has no texts yet


@dataclass(frozen=True)
class FineTuned:
    """An encoder with a trained head: a `SmallModel` that reads the texts and never looks at embeddings.

    The same seed gives the same bits on the same kind of processor, for however many threads: one is used. A GPU's may
    differ in the last bits.

    Args:
        id: Hub id, or path of a folder, of an encoder or a sequence classifier; None is the packaged MiniLM.
        revision: Branch, tag or commit of a hub id.
        weight: Weight w >= 0 of a synthetic text against a private one.
        shared_head: Whether one head learns from both kinds of texts, or synthetic texts have one of their own.
        probe: Whether an encoder's new head begins as the best one on the frozen encoder, or at zero. A sequence
            classifier begins with the head it has.
        validation: Share of each class of the private texts that is held out; 0 holds nothing out. Nothing is either
            where a class has a single text: all epochs are trained then.
        training: Descent of the network, and when it stops.
        max_tokens: Tokens at which longer texts are cut, or the model's own limit where that is shorter.
        device: Device: 'cpu', 'cuda', 'cuda:1', ...
    """

    id: str | None = None
    revision: str | None = None
    weight: float = 0.3
    shared_head: bool = True
    probe: bool = True
    validation: float = 0.2
    training: Training = field(default_factory=Training)
    max_tokens: int = 256
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_weight(self.weight)
        checks.number("validation", self.validation, least=0, below=1, remedy="a share of the private texts")
        checks.integer("max_tokens", self.max_tokens, least=1)

    @property
    def judge(self) -> Head:
        """A head on embeddings: there are no test texts on the server's side of a federation, and no encoder of ours.

        What it makes of the sent texts says how good these are, and not how good this model will be.
        """
        return Head(weight=self.weight)

    def teach(self, private: Labelled, synthetic: Labelled, num_classes: int, seed: int) -> Taught:
        """Return the weights of the best epoch and `seen`, and what led there.

        Args:
            private, synthetic: Texts and labels, either of which may be none; embeddings are not looked at.
            num_classes: Number of classes, c.
            seed: Seed of what is held out, of the order and of dropout.

        Returns:
            Taught: Its report has `epochs` (of the weights kept), `trained` (in all), `held_out`, `losses` (of the
                held out texts, at the beginning and after each epoch), `cut` (texts beyond the context) and `notes`.

        Raises:
            BadInput: Texts and labels do not fit each other, a label is none of c, the model cannot be loaded, or
                training diverged.
        """
        for whose, texts in (("private", private), ("synthetic", synthetic)):
            _check(whose, texts, num_classes)
        m = len(synthetic) if self.weight else 0
        heads = 2 if len(private) and m and not self.shared_head else 1
        seen = np.zeros((heads, num_classes), bool)
        seen[0, private.labels] = True
        seen[-1, synthetic.labels[:m]] = True
        out = held_out(private.labels, self.validation, seed)
        notes = [self._why_not(private.labels)] if self.validation and not out.any() else []
        tokenizer, model, context = self._loaded(heads * num_classes)
        limit = min(self.max_tokens, context)
        own, cut = _tokens(tokenizer, private.texts, limit)
        others, cut_too = _tokens(tokenizer, synthetic.texts[:m], limit)
        # A head's outputs follow those of the head before it.
        own_labels, beside = private.labels.tolist(), (synthetic.labels + (heads - 1) * num_classes).tolist()
        held = [Example(t, y) for t, y, away in zip(own, own_labels, out, strict=True) if away]
        learned = [Example(t, y) for t, y, away in zip(own, own_labels, out, strict=True) if not away]
        weights = np.concatenate([np.ones(len(learned)), np.full(m, self.weight)])
        learned += [Example(t, y) for t, y in zip(others, beside[:m], strict=True)]
        report: dict[str, Any] = {"epochs": 0, "trained": 0, "held_out": len(held), "losses": []}
        if learned:
            where = torch_device(self.device)
            pad = int(tokenizer.pad_token_id)
            data, check = (Examples(items, "class", where, pad=pad) for items in (learned, held))
            model.to(where)
            if self.probe and model.head is not None:
                _probe(model.head, model, data, len(own) - len(held), Head(weight=self.weight), seen, seed)
            report |= self.training.descend(model, data, weights, check, num_classes, seed)
        arrays = {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}
        return Taught({**arrays, SEEN: seen}, {**report, "cut": cut + cut_too, "notes": notes})

    def scores(
        self, weights: Mapping[str, np.ndarray], x: Float32[np.ndarray, "n d"], texts: Sequence[str]
    ) -> Float32[np.ndarray, "n c"]:
        """Return the logits of texts; a label that was never seen is never said. Zero where nothing was learned."""
        seen = weights[SEEN]
        logits = np.zeros((len(texts), seen.shape[1]), np.float32)
        if not seen.any() or not len(texts):
            return logits
        tokenizer, model, context = self._loaded(seen.size)
        model.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in weights.items() if k != SEEN})
        model.to(torch_device(self.device)).eval()
        tokens, _ = _tokens(tokenizer, texts, min(self.max_tokens, context))
        pad = int(tokenizer.pad_token_id)
        data = Examples([Example(t, 0) for t in tokens], "class", self.device, pad=pad)
        order = np.argsort([-len(t) for t in tokens], kind="stable")  # texts of like length share a batch
        with one_thread(), torch.inference_mode():
            for rows, batch in data.batches(AT_ONCE, order.tolist()):
                logits[rows] = model(batch.tokens, batch.mask)[:, : seen.shape[1]].cpu().numpy()
        logits[:, ~seen[0]] = -1e30
        return logits

    def _loaded(self, outputs: int) -> tuple[Any, Classifier, int]:
        """Return tokenizer, a classifier of one's own, and its context."""
        with needs(f"the small model {self.id or 'MiniLM'!r}"):
            from fedlab.llm.tuning.classifier import load
        source, commit = (str(minilm_folder()), None) if self.id is None else pinned(self.id, self.revision)
        fingerprint = fingerprint_of("classifier", weights=weights_of(source, commit))
        tokenizer, model, context = load(source, revision=commit, outputs=outputs, fingerprint=fingerprint)
        return tokenizer, copy.deepcopy(model), context

    def _why_not(self, labels: np.ndarray) -> str:
        if not len(labels):
            return f"no private text could be held out, for there is none: {self.training.epochs} epochs were trained"
        classes, counts = np.unique(labels, return_counts=True)
        rare = counts.argmin()
        return (
            f"no private text was held out, for label {classes[rare]} has {counts[rare]} of {len(labels)}: "
            f"{self.training.epochs} epochs were trained"
        )


def held_out(labels: Int64[np.ndarray, " n"], share: float, seed: int) -> np.ndarray:
    """Return which private texts are held out (n,): of each class its share, at least one, and never all.

    Nothing is held out where a class has a single text: it could be learned or checked, not both.
    """
    out = np.zeros(len(labels), bool)
    classes, counts = np.unique(labels, return_counts=True)
    if not share or not len(labels) or counts.min() < 2:
        return out
    rng = np.random.default_rng([seed, 1])
    for label, count in zip(classes, counts, strict=True):
        number = min(max(1, round(share * count)), count - 1)
        out[rng.permutation(np.flatnonzero(labels == label))[:number]] = True
    return out


def _probe(
    layer: nn.Linear, model: Classifier, data: Examples, private: int, head: Head, seen: np.ndarray, seed: int
) -> None:
    """Give an encoder's layer the best head on what the encoder says of the texts, the private ones first.

    A head is fitted on vectors of norm 1 in the mean, which its penalties are meant for.
    """
    model.eval()
    with one_thread(), torch.no_grad():
        means = [model.means(batch.tokens, batch.mask).cpu().numpy() for _, batch in data.batches(AT_ONCE)]
    x = np.concatenate(means)
    scale = float(np.linalg.norm(x, axis=1).mean()) or 1.0
    x = x / np.float32(scale)
    labels = np.array([item.target for item in data.items], np.int64)
    heads, c = seen.shape
    own, synthetic = (x[:private], labels[:private]), (x[private:], labels[private:] % c)
    none = x[:0], labels[:0]
    # of two heads each has texts of its own
    pairs = [(own, synthetic)] if heads == 1 else [(own, none), (synthetic, none)]
    fitted = np.concatenate([head.fit(ax, ay, bx, by, c, seed) for (ax, ay), (bx, by) in pairs])
    bias = np.maximum(fitted[:, -1], _UNSEEN)  # minus infinity would stay for ever
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(fitted[:, :-1] / scale))
        layer.bias.copy_(torch.from_numpy(bias))


def _tokens(tokenizer: Any, texts: Sequence[str], limit: int) -> tuple[list[tuple[int, ...]], int]:
    """Return the tokens of texts, and how many texts were cut."""
    if not len(texts):
        return [], 0
    # half a surrogate pair is a str in Python but no text to a tokenizer
    clean = [text.encode("utf-8", "replace").decode() for text in texts]
    ids = tokenizer(clean, verbose=False)["input_ids"]
    if long := [row for row, own in enumerate(ids) if len(own) > limit]:
        shortened = tokenizer([clean[row] for row in long], truncation=True, max_length=limit)["input_ids"]
        for row, own in zip(long, shortened, strict=True):
            ids[row] = own
    # an empty text of a tokenizer without special tokens: a network still wants one
    nothing = (int(tokenizer.pad_token_id),)
    return [tuple(own) or nothing for own in ids], len(long)


def _check(whose: str, given: Labelled, num_classes: int) -> None:
    labels = given.labels
    if len(given.texts) != len(labels):
        raise BadInput(f"{len(given.texts)} {whose} texts have {len(labels)} labels: give one for each")
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise BadInput(f"labels of {whose} texts lie in {labels.min()}..{labels.max()}, expected 0..{num_classes - 1}")
