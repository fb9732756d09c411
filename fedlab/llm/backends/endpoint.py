"""Any OpenAI-compatible endpoint: vLLM, a llama.cpp server, or a service that is paid by the token.

    refused (401, 403, 404, 400)           one message at once: trying again would be refused again
    away (429, 5xx, no connection, slow)   tried again, ever more rarely, until nobody had an answer for `retry_for`
    malformed                              tried again `retries` times: an answer without a text, or no JSON
    truncated, empty                       texts all the same, and counted

The key is read from the environment and never kept; nothing but prompts, sampling and seeds is sent.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Event
from typing import Any

import numpy as np
from jaxtyping import Float64

from fedlab.errors import BadInput
from fedlab.extras import needs
from fedlab.features.weights import fingerprint_of
from fedlab.llm.backends.concurrent import at_once
from fedlab.llm.backends.openai_format import echoed, reason, retry_after, text_of
from fedlab.llm.backends.retry import MALFORMED, Pace, Retry, Warn
from fedlab.llm.language_model import (
    Arrived,
    Completion,
    LanguageModel,
    Progress,
    Prompt,
    Sampling,
    Usage,
    paired,
)

_NO_KEY = "none"


@dataclass
class Endpoint(LanguageModel):
    """A model behind an OpenAI-compatible endpoint.

    A seed is passed on, and what it promises is up to the endpoint: few compute a text the same way twice.

    Parameters
    ----------
    base_url
        'http://127.0.0.1:8080/v1'.
    model
        As the endpoint calls it.
    key
        Name of the environment variable that holds the key; None for an endpoint that wants none.
    chat
        Whether a str is sent as what a user says in a chat, for a model that only chats. Chats always are.
    timeout
        Seconds for one answer.
    retries
        How often a malformed answer is asked for again.
    retry_for
        Seconds without any answer after which the endpoint is given up.
    backoff, longest
        Seconds of the first wait after a failure, and of the longest.
    concurrent
        Requests at once.
    per_minute
        Requests started a minute; None does not hold back.
    price_in, price_out
        Of a million tokens read and written.
    extra
        Further fields of every request, such as {min_p: 0} for a llama.cpp server, which otherwise cuts off
        improbable tokens.
    seed
        Of the jitter of the waits.
    warn
        Told when the endpoint goes away and is back; None is the log.

    Raises
    ------
    BadInput
        If a number is out of its range.
    """

    base_url: str
    model: str
    key: str | None = "OPENAI_API_KEY"
    chat: bool = False
    timeout: float = 120.0
    retries: int = 3
    retry_for: float = 300.0
    backoff: float = 1.0
    longest: float = 30.0
    concurrent: int = 4
    per_minute: float | None = None
    price_in: float = 0.0
    price_out: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    warn: Warn | None = field(default=None, compare=False)
    _client: Any = field(default=None, init=False, repr=False, compare=False)
    _told: Counter[str] = field(default_factory=Counter, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.extra = dict(self.extra)
        for name in ("timeout", "patience", "backoff", "longest", "per_minute"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise BadInput(f"{name} {value}: above 0 and finite")
        if self.concurrent < 1:
            raise BadInput(f"concurrent {self.concurrent}: at least 1 request at once")
        for name in ("retries", "price_in", "price_out"):
            if getattr(self, name) < 0:
                raise BadInput(f"{name} {getattr(self, name)}: at least 0")
        self._retry = Retry(
            self._name,
            self.retry_for,
            retries=self.retries,
            first=self.backoff,
            longest=self.longest,
            seed=self.seed,
            pace=Pace(self.per_minute),
            warn=self.warn,
        )

    @property
    def troubles(self) -> Counter[str]:
        """What went wrong so far, and how often."""
        return self._retry.troubles.copy()

    @property
    def _name(self) -> str:
        return f"the endpoint {self.base_url} (model {self.model!r})"

    def fingerprint(self) -> str:
        """Hash address, name and extra fields: an endpoint does not tell when it changes what is behind them."""
        return fingerprint_of(
            "endpoint", url=self.base_url, model=self.model, chat=self.chat, extra=self.extra
        )

    def complete(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        seeds: Sequence[int],
        progress: Progress | None = None,
        *,
        arrived: Arrived | None = None,
    ) -> list[Completion]:
        """Ask for texts, `concurrent` at once; see `LanguageModel.complete`.

        Raises
        ------
        BadInput
            If the endpoint refuses, stays away longer than `retry_for`, or answers malformed too often. What
            arrived before was told.
        """
        paired(prompts, seeds, "seeds")
        if not prompts:
            return []
        client, stop = self._connected(), Event()

        def work(_: None, index: int) -> Completion:
            return self._completion(client, prompts[index], sampling, int(seeds[index]), stop)

        return at_once([None] * self.concurrent, work, len(prompts), progress, arrived, stop)

    def log_likelihood(
        self, prompts: Sequence[str], continuations: Sequence[str]
    ) -> Float64[np.ndarray, "n 2"]:
        """Log p and number of tokens of each continuation, from an endpoint that can echo a prompt (vLLM can).

        Raises
        ------
        BadInput
            If the endpoint does not; names the models that do.
        """
        paired(prompts, continuations, "continuations")
        rows = np.zeros((len(prompts), 2))
        if not prompts:
            return rows
        client, stop = self._connected(), Event()

        def work(_: None, index: int) -> Completion:
            prompt, both = prompts[index], prompts[index] + continuations[index]
            asked = {"prompt": both, "max_tokens": 1, "temperature": 0.0, "echo": True, "logprobs": 1}
            answer = self._retry.answer(
                lambda: echoed(client.completions.create(model=self.model, **asked)), self._why, stop
            )
            if answer is None:
                raise BadInput(
                    f"{self._name} does not tell the probabilities of a prompt (echo with logprobs): use one that "
                    "does, such as vLLM, or a model on this machine (llm=huggingface, llm=gemma)"
                )
            offsets, values = answer
            mine = [p for at, p in zip(offsets, values, strict=True) if len(prompt) <= at < len(both)]
            rows[index] = sum(p or 0.0 for p in mine), len(mine)
            return Completion("", 0, 0, "stop")

        at_once([None] * self.concurrent, work, len(prompts), None, None, stop)
        return rows

    def cost(self, completions: Sequence[Completion]) -> Usage:
        """Price these texts, and tell what went wrong since this was last asked."""
        usage = super().cost(completions)
        price = usage.prompt_tokens * self.price_in + usage.completion_tokens * self.price_out
        troubles = self.troubles
        new, self._told = troubles - self._told, troubles
        return replace(usage, cost=price / 1e6, troubles=dict(new))

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _connected(self) -> Any:
        """Make the client, and look once whether anyone is there."""
        if self._client is None:
            with needs("an endpoint"):
                import openai
            key = os.environ.get(self.key, "") if self.key else _NO_KEY
            if not key:
                raise BadInput(
                    f"{self._name} wants its key in the environment variable {self.key}, which is empty: set it, or "
                    "key=null if the endpoint wants none"
                )
            client = openai.OpenAI(base_url=self.base_url, api_key=key, timeout=self.timeout, max_retries=0)
            try:
                client.with_options(timeout=min(self.timeout, 10.0)).models.list()
            except openai.APIConnectionError as error:
                client.close()
                raise BadInput(
                    f"{self._name} cannot be reached ({reason(error)}): start it (a local one: fedlab llm serve), "
                    "or correct base_url"
                ) from error
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                client.close()
                raise self._refused(error) from error
            except (openai.OpenAIError, ValueError):
                pass  # someone is there; not every endpoint lists its models
            self._client = client
        return self._client

    def _completion(
        self, client: Any, prompt: Prompt, sampling: Sampling, seed: int, stop: Event
    ) -> Completion:
        options: dict[str, Any] = {
            "model": self.model,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed,
        }
        if sampling.stop:
            options["stop"] = list(sampling.stop)
        extra = ({"top_k": sampling.top_k} if sampling.top_k else {}) | dict(self.extra)
        if extra:  # not the API's own, so an endpoint that does not know it may refuse
            options["extra_body"] = extra
        if isinstance(prompt, str) and not self.chat:
            route, asked = client.completions, {"prompt": prompt}
        else:
            said = [("user", prompt)] if isinstance(prompt, str) else [(m.role, m.content) for m in prompt]
            route = client.chat.completions
            asked = {"messages": [{"role": role, "content": content} for role, content in said]}
        answer = self._retry.answer(lambda: text_of(route.create(**asked, **options)), self._why, stop)
        if not answer.text.strip():
            self._retry.count("empty")
        if answer.finish == "length":
            self._retry.count("truncated")
        return answer

    def _why(self, error: Exception) -> tuple[str, float]:
        """Name what may pass and the seconds the endpoint wants, and raise what will not pass."""
        import openai

        if isinstance(error, openai.APIStatusError):
            if error.status_code == 429 and error.code != "insufficient_quota":
                return "rate limited", retry_after(error)
            if error.status_code >= 500 or error.status_code in (408, 409):
                return "server error", retry_after(error)
            self._retry.count("refused")
            raise self._refused(error) from error
        if isinstance(error, openai.APITimeoutError):
            return "timed out", 0.0
        if isinstance(error, openai.APIConnectionError):
            return "unreachable", 0.0
        if isinstance(error, (openai.OpenAIError, ValueError, AttributeError, LookupError, TypeError)):
            return MALFORMED, 0.0
        raise error

    def _refused(self, error: Any) -> BadInput:
        remedy = {
            401: f"check the key in the environment variable {self.key}",
            403: f"check what the key in the environment variable {self.key} may do",
            404: "check base_url (it ends in /v1 mostly), the model's name, and chat",
            429: "the account is used up: add credit or use another key",
        }.get(error.status_code, "shorten the prompt, or change sampling or extra")
        return BadInput(f"{self._name} refused with {error.status_code} ({reason(error)}): {remedy}")
