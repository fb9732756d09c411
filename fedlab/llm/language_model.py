"""What a language model is to the library: prompts in, texts and what they cost out.

    complete(prompts, sampling, seeds) -> texts        log_likelihood(prompts, continuations) -> log p, tokens

A prompt is a str, which is continued, or a tuple of messages, which is put through the model's chat template.
Every prompt has a seed of its own: a text belongs to (model, prompt, sampling, seed) and not to who was asked
beside it, so it can be kept and never asked for again (`backends/completion_cache.py`).

A backend is a `LanguageModel` with three methods: `fingerprint`, `_complete` and `_log_likelihood`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
from jaxtyping import Float64

from fedlab import checks
from fedlab.errors import BadInput

Progress = Callable[[int, int], object]
"""Called as progress(done, total)."""

ROLES = ("system", "user", "assistant")
FINISHES = ("stop", "length")


@dataclass(frozen=True)
class Message:
    """One turn of a chat.

    Args:
        role: Speaker: 'system', 'user' or 'assistant'.
        content: Text of the turn.
    """

    role: str
    content: str

    def __post_init__(self) -> None:
        checks.choice("role", self.role, ROLES)


Prompt = str | tuple[Message, ...]
"""A text to be continued, or a chat to be answered."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn: p(token)^(1 / temperature), among the top_k, within the top_p.

    Args:
        max_tokens: Length at which a text ends at the latest; at least 1.
        temperature: Flatness of the draw; 0 is the most probable token each time.
        top_k: Number of most probable tokens drawn from; 0 is all of them.
        top_p: Probability that the most probable tokens drawn from hold together; 1 is all of them.
        stop: Strings before the first of which a text ends.
        schema: JSON schema of the text, for a model that `follows_schema`; others write as they would without.
    """

    max_tokens: int = 64
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.9
    stop: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        # a config gives a list, and a lone string would be taken for its letters
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        object.__setattr__(self, "stop", stop)
        checks.integer("max_tokens", self.max_tokens, least=1)
        checks.number("temperature", self.temperature, least=0, remedy="0 is the most probable token")
        checks.integer("top_k", self.top_k, least=0, remedy="0 is every token")
        checks.number("top_p", self.top_p, above=0, most=1, remedy="1 is every token")
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise BadInput(f"stop string {text!r}: expected at least one character, or no stop string")

    def as_dict(self) -> dict[str, object]:
        """Every field by name, as JSON holds it; no schema is no field, so that texts are found under older keys."""
        fields = {**asdict(self), "stop": list(self.stop)}
        return fields if self.schema is not None else {k: v for k, v in fields.items() if k != "schema"}


@dataclass(frozen=True)
class Completion:
    """A text that a model wrote.

    Args:
        text: Continuation or answer, without the prompt and without the stop string.
        tokens, prompt_tokens: Numbers of tokens written and read.
        finish: Reason of the end. 'stop': by itself or at a stop string; 'length': cut at max_tokens.
    """

    text: str
    tokens: int
    prompt_tokens: int
    finish: str

    def __post_init__(self) -> None:
        checks.choice("finish", self.finish, FINISHES)


Arrived = Callable[[int, Completion], None]
"""Called as arrived(index of the prompt, its completion), as soon as there is one, in any order."""


@dataclass(frozen=True)
class Usage:
    """What texts took. u + v is what both took.

    Args:
        requests: Answers that came from the model.
        prompt_tokens, completion_tokens: Tokens read and written in them.
        cost: Price, in the currency that the model was given; 0 for a model on this machine.
        recalled: Texts that were paid for earlier and not asked for again.
        troubles: Kinds of trouble on the way to how often: 'rate limited', 'timed out', 'truncated', 'empty', ...
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    recalled: int = 0
    troubles: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Usage) -> Usage:
        names = sorted(self.troubles.keys() | other.troubles.keys())
        return Usage(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost + other.cost,
            self.recalled + other.recalled,
            {name: self.troubles.get(name, 0) + other.troubles.get(name, 0) for name in names},
        )


class LanguageModel(ABC):
    """Anything that continues texts. Loaded at the first call, so that one in a config costs nothing."""

    @property
    def follows_schema(self) -> bool:
        """Whether the texts follow `Sampling.schema`."""
        return False

    @abstractmethod
    def fingerprint(self) -> str:
        """Everything that makes its texts what they are, as 64 hexadecimal digits."""

    @abstractmethod
    def _complete(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int], arrived: Arrived) -> None:
        """Write one text per prompt, n > 0 of them, and hand over each in the calling thread as soon as it is there."""

    @abstractmethod
    def _log_likelihood(
        self, prompts: Sequence[str], continuations: Sequence[str], rows: Float64[np.ndarray, "n 2"]
    ) -> None:
        """Fill in log p and number of tokens of each continuation, n > 0 of them."""

    def complete(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        seeds: Sequence[int],
        progress: Progress | None = None,
        *,
        arrived: Arrived | None = None,
    ) -> list[Completion]:
        """Write one text per prompt, in their order.

        Args:
            prompts: Texts to continue and chats to answer, n of them.
            sampling: Law by which tokens are drawn.
            seeds: Seed of each prompt, (n,), 0 <= seed < 2**31. What a seed promises is said by each model.
            progress: Listener, called as progress(done, n).
            arrived: Listener, called as arrived(i, completion) in the calling thread as each is there, so that it can
                be kept even if a later one fails.

        Raises:
            BadInput: Prompts and seeds differ in number, prompts do not fit the model (says how many), there is a
                chat but no template for it, memory does not suffice, or the model cannot be used. An endpoint: it
                refuses, stays away longer than `retry_for`, or answers malformed too often. What arrived before was
                handed over.
        """
        _refuse_unpaired(prompts, seeds, "seeds")
        completions: dict[int, Completion] = {}

        def each(index: int, completion: Completion) -> None:
            completions[index] = completion
            if arrived is not None:
                arrived(index, completion)
            if progress is not None:
                progress(len(completions), len(prompts))

        if prompts:
            self._complete(prompts, sampling, seeds, each)
        return [completions[index] for index in range(len(prompts))]

    def log_likelihood(self, prompts: Sequence[str], continuations: Sequence[str]) -> Float64[np.ndarray, "n 2"]:
        """How probable each continuation is after its prompt.

        Returns:
            (n, 2) float64: the sum of log p over the continuation's tokens (natural logarithm), and their number.

        Raises:
            BadInput: The numbers differ, a text does not fit, or the model does not tell probabilities.
        """
        _refuse_unpaired(prompts, continuations, "continuations")
        rows = np.zeros((len(prompts), 2))
        if prompts:
            self._log_likelihood(prompts, continuations, rows)
        return rows

    def cost(self, completions: Sequence[Completion]) -> Usage:
        """What these texts cost, as the model's own prices have it."""
        return Usage(
            requests=len(completions),
            prompt_tokens=sum(c.prompt_tokens for c in completions),
            completion_tokens=sum(c.tokens for c in completions),
        )

    def close(self) -> None:  # noqa: B027
        """Give back memory, threads and connections. A closed model loads again when it is asked again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def refuse_long(sizes: Sequence[int], context: int, model: str) -> None:
    """Refuse prompts that do not fit.

    Args:
        sizes: Tokens of each prompt with those to be written.
        context: Tokens that fit.
        model: Name of the model, for people.

    Raises:
        BadInput: Naming how many do not, and the first.
    """
    long = [index for index, size in enumerate(sizes) if size > context]
    if long:
        raise BadInput(
            f"{len(long)} of {len(sizes)} prompts do not fit (first: prompt {long[0]}, {sizes[long[0]]} tokens with "
            f"those to be written; the context of {model} is {context}): shorten them, ask for fewer tokens, or raise "
            "context where the model allows it"
        )


def _refuse_unpaired(prompts: Sequence[object], others: Sequence[object], what: str) -> None:
    if len(prompts) != len(others):
        raise BadInput(f"{len(prompts)} prompts and {len(others)} {what}: one for each prompt")
