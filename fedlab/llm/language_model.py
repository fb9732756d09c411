"""What a language model is to the library: prompts in, texts and what they cost out.

    complete(prompts, sampling, seeds) -> texts        log_likelihood(prompts, continuations) -> log p, tokens

A prompt is a str, which is continued, or a tuple of messages, which is put through the model's chat template.
Every prompt has a seed of its own: a text belongs to (model, prompt, sampling, seed) and not to who was asked
beside it, so it can be kept and never asked for again (`generation.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol, Self, runtime_checkable

import numpy as np
from jaxtyping import Float64

from fedlab.errors import BadInput, unknown

Progress = Callable[[int, int], object]
"""Called as progress(done, total)."""

ROLES = ("system", "user", "assistant")
FINISHES = ("stop", "length")


@dataclass(frozen=True)
class Message:
    """One turn of a chat.

    Parameters
    ----------
    role
        'system', 'user' or 'assistant'.
    content
        What is said.

    Raises
    ------
    BadInput
        If the role is unknown.
    """

    role: str
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise unknown("role", self.role, ROLES)


Prompt = str | tuple[Message, ...]
"""A text to be continued, or a chat to be answered."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn: p(token)^(1 / temperature), among the top_k, within the top_p.

    Parameters
    ----------
    max_tokens
        A text ends here at the latest. At least 1.
    temperature
        0 is the most probable token each time.
    top_k
        Only the k most probable tokens; 0 is all of them.
    top_p
        Only the most probable tokens that together hold this much probability; 1 is all of them.
    stop
        A text ends before the first of these strings.

    Raises
    ------
    BadInput
        If a value is out of its range, or a stop string is empty.
    """

    max_tokens: int = 64
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.9
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # a config gives a list, and a lone string would be taken for its letters
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        object.__setattr__(self, "stop", stop)
        if self.max_tokens < 1:
            raise BadInput(f"max_tokens {self.max_tokens}: at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise BadInput(
                f"temperature {self.temperature}: at least 0 (0 is the most probable token) and finite"
            )
        if self.top_k < 0:
            raise BadInput(f"top_k {self.top_k}: at least 0 (0 is every token)")
        if not 0 < self.top_p <= 1:
            raise BadInput(f"top_p {self.top_p}: above 0 and at most 1 (1 is every token)")
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise BadInput(f"stop string {text!r}: expected at least one character, or no stop string")

    def as_dict(self) -> dict[str, object]:
        """Every field by name, as JSON holds it."""
        return {**asdict(self), "stop": list(self.stop)}


@dataclass(frozen=True)
class Completion:
    """A text that a model wrote.

    Parameters
    ----------
    text
        Without the prompt and without the stop string.
    tokens, prompt_tokens
        How many the model wrote and read.
    finish
        'stop': it ended by itself or at a stop string. 'length': it was cut at max_tokens.

    Raises
    ------
    BadInput
        If finish is neither.
    """

    text: str
    tokens: int
    prompt_tokens: int
    finish: str

    def __post_init__(self) -> None:
        if self.finish not in FINISHES:
            raise unknown("finish", self.finish, FINISHES)


Arrived = Callable[[int, Completion], None]
"""Called as arrived(index of the prompt, its completion), as soon as there is one, in any order."""


@dataclass(frozen=True)
class Usage:
    """What texts took. u + v is what both took.

    Parameters
    ----------
    requests
        Answers that came from the model.
    prompt_tokens, completion_tokens
        Tokens read and written in them.
    cost
        In the currency of the prices the model was given; 0 for a model on this machine.
    recalled
        Texts that were paid for earlier and not asked for again.
    troubles
        What went wrong on the way and how often: 'rate limited', 'timed out', 'truncated', 'empty', ...
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    recalled: int = 0
    troubles: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Usage) -> Usage:
        names = self.troubles.keys() | other.troubles.keys()
        return Usage(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost + other.cost,
            self.recalled + other.recalled,
            {name: self.troubles.get(name, 0) + other.troubles.get(name, 0) for name in sorted(names)},
        )


@runtime_checkable
class LanguageModel(Protocol):
    """Anything that continues texts. Loaded at the first call, so that one in a config costs nothing."""

    def fingerprint(self) -> str:
        """Everything that makes its texts what they are, as 64 hexadecimal digits."""
        ...

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

        Parameters
        ----------
        prompts
            n of them.
        sampling
            How tokens are drawn.
        seeds
            (n,) one per prompt, 0 <= seed < 2**31. What a seed promises is said by each model.
        progress
            Called as progress(done, n).
        arrived
            Called as arrived(i, completion) in the calling thread as each is there, so that it can be kept
            even if a later one fails.

        Raises
        ------
        BadInput
            If prompts and seeds differ in number, a prompt does not fit the model, or the model cannot be used.
        """
        ...

    def log_likelihood(
        self, prompts: Sequence[str], continuations: Sequence[str]
    ) -> Float64[np.ndarray, "n 2"]:
        """How probable each continuation is after its prompt.

        Returns
        -------
        (n, 2) float64: the sum of log p over the continuation's tokens (natural logarithm), and their number.

        Raises
        ------
        BadInput
            If the numbers differ, a text does not fit, or the model does not tell probabilities.
        """
        ...

    def cost(self, completions: Sequence[Completion]) -> Usage:
        """What these texts cost, as the model's own prices have it."""
        return Usage(
            requests=len(completions),
            prompt_tokens=sum(c.prompt_tokens for c in completions),
            completion_tokens=sum(c.tokens for c in completions),
        )

    def close(self) -> None:
        """Give back memory, threads and connections. A closed model loads again when it is asked again."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def paired(prompts: Sequence[object], others: Sequence[object], what: str) -> None:
    """Refuse prompts that do not have one of `what` each.

    Raises
    ------
    BadInput
        Naming both numbers.
    """
    if len(prompts) != len(others):
        raise BadInput(f"{len(prompts)} prompts and {len(others)} {what}: one for each prompt")
