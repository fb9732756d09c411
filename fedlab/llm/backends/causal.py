"""A causal network and its tokenizer at work: prompts padded on the left, each drawing from its own seed.

    token = argmax_v  log p(v) + g_v        g ~ Gumbel, of the prompt's own generator
    p     = softmax(z / temperature), of it the top_k largest, of these the fewest that hold top_p

The maximum is a draw from p (Gumbel, 1954). Neighbours in a batch change the last bits of z, so they change a
token only where two sums differ by no more; a draw from the sorted, running sum of p would move with every tie
in its tail. With one prompt a batch nothing changes at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import transformers
from jaxtyping import Float64
from torch import Tensor

from fedlab.errors import BadInput
from fedlab.extras import needs
from fedlab.features.encoders import frozen, torch_device
from fedlab.features.transformer import reading, refuse_incomplete
from fedlab.llm.backends.generation import generate, padded
from fedlab.llm.backends.openai_format import messages_of
from fedlab.llm.language_model import Arrived, Completion, Prompt, Sampling, refuse_long

T = TypeVar("T")


def load(source: str, *, revision: str | None, adapter: Path | None, device: str, dtype: str) -> tuple[Any, Any]:
    """Load a network in evaluation mode and its tokenizer.

    Raises:
        BadInput: They cannot be loaded, weights are missing, or there is no such device.
    """
    where = torch_device(device)
    options: dict[str, Any] = {"revision": revision} if revision else {}
    what = f"a causal language model{f' with the adapter {adapter}' if adapter else ''}"
    models: Any = transformers.AutoModelForCausalLM
    with needs(f"the language model {source!r}"), reading(source, what):
        network, report = models.from_pretrained(
            source, dtype=getattr(torch, dtype), output_loading_info=True, **options
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
        if adapter is not None:
            network.load_adapter(str(adapter))
    refuse_incomplete(source, report["missing_keys"])
    return frozen(network, where), tokenizer


class Causal:
    """A loaded model.

    Args:
        name: Name, for people.
        network, tokenizer: Model of Hugging Face.
        batch: Prompts at once; halved when memory does not suffice.
        context: Tokens of a prompt and its text together; None is the network's own limit.
    """

    def __init__(self, name: str, network: Any, tokenizer: Any, batch: int, context: int | None):
        self.name, self.network, self.tokenizer, self.batch = name, network, tokenizer, batch
        own = getattr(network.config.get_text_config(), "max_position_embeddings", None) or 2**31
        self.context = min(own, context or own)
        # Masks alone say here what is padding. transformers drops a mask of ones, and would then take a token that a
        # text has for padding, if it were told that one is.
        for config in (network.config, network.config.get_text_config()):
            config.pad_token_id = None

    def complete(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int], arrived: Arrived) -> None:
        """Write one text per prompt; see `LanguageModel`."""
        ids = [self._ids(prompt) for prompt in prompts]
        refuse_long([len(row) + sampling.max_tokens for row in ids], self.context, self.name)

        def write(rows: list[int]) -> list[list[int]]:
            return self._written([ids[i] for i in rows], sampling, [seeds[i] for i in rows])

        for rows, written in self._batches([len(row) for row in ids], write):
            for index, tokens in zip(rows, written, strict=True):
                arrived(index, self._completion(ids[index], tokens, sampling))

    def log_likelihood(
        self, prompts: Sequence[str], continuations: Sequence[str], rows: Float64[np.ndarray, "n 2"]
    ) -> None:
        """Fill in rows; see `LanguageModel`. The two are tokenised apart, so a prompt does not change a token."""
        before = [self._ids(prompt) for prompt in prompts]
        after = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in continuations]
        sizes = [len(a) + len(b) for a, b in zip(before, after, strict=True)]
        refuse_long(sizes, self.context, self.name)

        def sums(chosen: list[int]) -> list[float]:
            return self._sums([before[i] for i in chosen], [after[i] for i in chosen])

        for chosen, totals in self._batches(sizes, sums):
            rows[chosen] = [[total, len(after[i])] for i, total in zip(chosen, totals, strict=True)]

    def _ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            ids = list(self.tokenizer(prompt)["input_ids"])
        elif self.tokenizer.chat_template is None:
            raise BadInput(f"{self.name} has no chat template: give texts to continue (str), or a model tuned for chat")
        else:
            text = self.tokenizer.apply_chat_template(messages_of(prompt), add_generation_prompt=True, tokenize=False)
            ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])  # the template has them
        begin = self.tokenizer.bos_token_id
        # a network predicts the token after another: an empty prompt still needs one
        return ids or [self._end() if begin is None else begin]

    def _end(self) -> int:
        end = self.tokenizer.eos_token_id
        return 0 if end is None else end

    def _batches(
        self, sizes: Sequence[int], work: Callable[[list[int]], list[T]]
    ) -> Iterator[tuple[list[int], list[T]]]:
        # similar lengths together waste the least; the longest first, so that memory fails at once if it does
        order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
        start = 0
        while start < len(order):
            rows = order[start : start + self.batch]
            try:
                with torch.inference_mode():
                    result = work(rows)
            except RuntimeError as error:  # a CPU's allocator has no error of its own
                if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
                    raise
                if len(rows) == 1:
                    raise BadInput(
                        f"memory does not suffice for one prompt of {self.name}: ask for fewer tokens, or choose a "
                        "smaller model, dtype=bfloat16 or another device"
                    ) from error
                self.batch = max(1, len(rows) // 2)
                continue
            yield rows, result
            start += len(rows)

    def _written(self, prompts: list[list[int]], sampling: Sampling, seeds: list[int]) -> list[list[int]]:
        tokens, mask = padded(prompts, self._end(), self.network.device, side="left")
        ends = self.network.generation_config.eos_token_id
        ends = [self.tokenizer.eos_token_id] if ends is None else ends if isinstance(ends, list) else [ends]
        stopping = [_StopStrings(self.tokenizer, tokens.shape[1], sampling.stop)] if sampling.stop else []
        return generate(
            self.network,
            tokens,
            mask,
            [end for end in ends if end is not None],
            self._end(),
            sampling.max_tokens,
            do_sample=False,
            logits_processor=transformers.LogitsProcessorList([_Draw(sampling, seeds)]),
            stopping_criteria=transformers.StoppingCriteriaList(stopping),
        )

    def _completion(self, prompt: list[int], tokens: list[int], sampling: Sampling) -> Completion:
        # some tokenizers drop the space before a first token: it is there when the prompt is
        before, both = (self.tokenizer.decode(i, skip_special_tokens=True) for i in (prompt, prompt + tokens))
        text = both[len(before) :] if both.startswith(before) else self.tokenizer.decode(tokens)
        cuts = [at for stop in sampling.stop if (at := text.find(stop)) >= 0]
        ended = len(tokens) < sampling.max_tokens or tokens[-1] in self.tokenizer.all_special_ids
        if cuts:
            text = text[: min(cuts)]
            ended = True
            tokens = self._until(prompt, before, tokens, min(cuts))
        return Completion(text, len(tokens), len(prompt), "stop" if ended else "length")

    def _until(self, prompt: list[int], before: str, tokens: list[int], cut: int) -> list[int]:
        """Tokens up to the one in which the stop string begins: what follows are its neighbours' steps."""
        for n in range(1, len(tokens)):
            if len(self.tokenizer.decode(prompt + tokens[:n], skip_special_tokens=True)) - len(before) > cut:
                return tokens[:n]
        return tokens

    def _sums(self, before: list[list[int]], after: list[list[int]]) -> list[float]:
        rows = [a + b for a, b in zip(before, after, strict=True)]
        ids, mask = padded(rows, self._end(), self.network.device)
        logits = self.network(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
        chosen = logits.gather(2, ids[:, 1:, None])[:, :, 0] - logits.logsumexp(2)
        return [
            chosen[row, len(a) - 1 : len(a) + len(b) - 1].double().sum().item()
            for row, (a, b) in enumerate(zip(before, after, strict=True))
        ]


class _Draw(transformers.LogitsProcessor):
    """Leaves one token of each row: the one that its own generator draws."""

    def __init__(self, sampling: Sampling, seeds: Sequence[int]):
        self.sampling = sampling
        self.generators = [np.random.default_rng(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        z = scores.float()
        if self.sampling.temperature > 0:
            z = _kept(z / self.sampling.temperature, self.sampling)
            noise = np.stack([g.gumbel(size=z.shape[1]).astype(np.float32) for g in self.generators])
            z = z + torch.from_numpy(noise).to(z.device)
        chosen = z.argmax(1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)


def _kept(z: Tensor, sampling: Sampling) -> Tensor:
    """Put -inf where top_k and top_p leave nothing; the largest stays always."""
    if sampling.top_k:
        least = z.topk(min(sampling.top_k, z.shape[1])).values[:, -1:]
        z = z.masked_fill(z < least, -torch.inf)
    if sampling.top_p < 1:
        sorted_z, order = z.sort(descending=True)
        p = sorted_z.softmax(1)
        beyond = p.cumsum(1) - p >= sampling.top_p
        z = z.masked_fill(torch.zeros_like(beyond).scatter_(1, order, beyond), -torch.inf)
    return z


class _StopStrings(transformers.StoppingCriteria):
    """Ends a row whose last tokens hold a stop string."""

    def __init__(self, tokenizer: Any, width: int, stop: Sequence[str]):
        self.tokenizer, self.width, self.stop = tokenizer, width, stop
        # a token is at least a byte, but for special ones; a character is up to four
        self.tail = 4 * max(map(len, stop)) + 4

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        tails = input_ids[:, self.width :][:, -self.tail :].tolist()
        texts = [self.tokenizer.decode(tail, skip_special_tokens=True) for tail in tails]
        ended = [any(stop in text for stop in self.stop) for text in texts]
        return torch.tensor(ended, device=input_ids.device)
