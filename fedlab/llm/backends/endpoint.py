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

from fedlab import checks
from fedlab.errors import BadInput
from fedlab.extras import needs
from fedlab.features.weights import fingerprint_of
from fedlab.llm.backends.concurrent import at_once
from fedlab.llm.backends.openai_format import echoed, messages_of, reason, retry_after, text_of
from fedlab.llm.backends.retry import MALFORMED, Pace, Retry, Warn
from fedlab.llm.language_model import Arrived, Completion, LanguageModel, Message, Prompt, Sampling, Usage

_NO_KEY = "none"


@dataclass
class Endpoint(LanguageModel):
    """A model behind an OpenAI-compatible endpoint.

    A seed is passed on, and what it promises is up to the endpoint: few compute a text the same way twice.

    Args:
        base_url: Address that ends in /v1, such as 'http://127.0.0.1:8080/v1'.
        model: Name of the model, as the endpoint calls it.
        key: Name of the environment variable that holds the key; None for an endpoint that wants none.
        chat: Whether a str is sent as what a user says in a chat, for a model that only chats. Chats always are.
        json_schema: Whether an answer in a chat is held to a JSON schema where one is asked for (`response_format`);
            False for an endpoint that refuses it, whose answers are then read as the text they are.
        timeout: Seconds for one answer.
        retries: Number of times that a malformed answer is asked for again.
        retry_for: Seconds without any answer after which the endpoint is given up.
        backoff, longest: Seconds of the first wait after a failure, and of the longest.
        concurrent: Number of requests at once.
        per_minute: Number of requests started a minute; None does not hold back.
        price_in, price_out: Price of a million tokens read and written.
        extra: Fields that every request has besides, such as {min_p: 0} for a llama.cpp server, which otherwise cuts
            off improbable tokens.
        seed: Seed of the jitter of the waits.
        warn: Function told when the endpoint goes away and is back; None is the log.
    """

    base_url: str
    model: str
    key: str | None = "OPENAI_API_KEY"
    chat: bool = False
    json_schema: bool = True
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
    _priced: Counter[str] = field(default_factory=Counter, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.extra = dict(self.extra)
        for name in ("timeout", "retry_for", "backoff", "longest", "per_minute"):
            if (value := getattr(self, name)) is not None or name != "per_minute":
                checks.number(name, value, above=0)
        checks.integer("concurrent", self.concurrent, least=1, remedy="requests at once")
        checks.integer("retries", self.retries, least=0)
        for name in ("price_in", "price_out"):
            checks.number(name, getattr(self, name), least=0)
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
        return fingerprint_of("endpoint", url=self.base_url, model=self.model, chat=self.chat, extra=self.extra)

    @property
    def follows_schema(self) -> bool:
        """Whether its texts follow a schema, as it was told."""
        return self.json_schema

    def _complete(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int], arrived: Arrived) -> None:
        client, stop = self._connected(), Event()

        def work(_: None, index: int) -> Completion:
            return self._completion(client, prompts[index], sampling, int(seeds[index]), stop)

        at_once([None] * self.concurrent, work, len(prompts), arrived, stop)

    def _log_likelihood(
        self, prompts: Sequence[str], continuations: Sequence[str], rows: Float64[np.ndarray, "n 2"]
    ) -> None:
        """Ask an endpoint that can echo a prompt (vLLM can); any other is refused, with what to use instead."""
        client, stop = self._connected(), Event()

        def work(_: None, index: int) -> tuple[float, int]:
            prompt, both = prompts[index], prompts[index] + continuations[index]
            request = {"prompt": both, "max_tokens": 1, "temperature": 0.0, "echo": True, "logprobs": 1}
            echo = self._retry.answer(
                lambda: echoed(client.completions.create(model=self.model, **request)), self._why, stop
            )
            if echo is None:
                raise BadInput(
                    f"{self._name} does not tell the probabilities of a prompt (echo with logprobs): use one that "
                    "does, such as vLLM, or a model on this machine (llm=huggingface, llm=gemma)"
                )
            own = [p for at, p in zip(*echo, strict=True) if len(prompt) <= at < len(both)]
            return sum(p or 0.0 for p in own), len(own)

        at_once([None] * self.concurrent, work, len(prompts), rows.__setitem__, stop)

    def cost(self, completions: Sequence[Completion]) -> Usage:
        """Price these texts, and tell what went wrong since this was last asked."""
        usage = super().cost(completions)
        price = usage.prompt_tokens * self.price_in + usage.completion_tokens * self.price_out
        troubles = self.troubles
        new, self._priced = troubles - self._priced, troubles
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

    def _completion(self, client: Any, prompt: Prompt, sampling: Sampling, seed: int, stop: Event) -> Completion:
        request: dict[str, Any] = sampling.as_dict() | {"model": self.model, "seed": seed}
        top_k, schema = request.pop("top_k"), request.pop("schema", None)
        if not sampling.stop:
            del request["stop"]
        extra = ({"top_k": top_k} if top_k else {}) | dict(self.extra)
        if extra:  # not the API's own, so an endpoint that does not know it may refuse
            request["extra_body"] = extra
        if isinstance(prompt, str) and not self.chat:
            route = client.completions
            request["prompt"] = prompt
        else:
            chat = (Message("user", prompt),) if isinstance(prompt, str) else prompt
            route = client.chat.completions
            request["messages"] = messages_of(chat)
            if schema is not None and self.json_schema:
                held_to = {"name": "answer", "schema": schema, "strict": True}
                request["response_format"] = {"type": "json_schema", "json_schema": held_to}
        answer = self._retry.answer(lambda: text_of(route.create(**request)), self._why, stop)
        if not answer.text.strip():
            self._retry.count("empty")
        if answer.finish == "length":
            self._retry.count("truncated")
        return answer

    def _why(self, error: BaseException) -> tuple[str, float]:
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
        }.get(error.status_code, "shorten the prompt, or change sampling, extra or json_schema")
        return BadInput(f"{self._name} refused with {error.status_code} ({reason(error)}): {remedy}")
