"""llama.cpp in this process, through xllamacpp: a loaded model that nobody else may talk to, or that anyone may."""

from __future__ import annotations

import json
import secrets
import urllib.request
from pathlib import Path
from typing import Any

from fedlab.errors import BadInput
from fedlab.extras import needs
from fedlab.llm.backends.openai_format import completion_of, messages_of
from fedlab.llm.language_model import Completion, Prompt, Sampling

_SILENT = -1


class Llama:
    """One loaded model: an xllamacpp server.

    Args:
        path: GGUF file.
        context: Tokens of a prompt and its text, for each of the slots.
        slots: Texts at once.
        threads, gpu_layers: See `Gguf`.
        public_port: Port of 127.0.0.1, for whoever asks; None wants a key that nobody is told.

    Raises:
        BadInput: The model cannot be loaded.
    """

    def __init__(
        self, path: Path, context: int, slots: int, threads: int, gpu_layers: int, public_port: int | None = None
    ):
        with needs("a GGUF model"):
            from xllamacpp import CommonParams, Server  # pyright: ignore[reportAttributeAccessIssue]
        params = CommonParams()
        params.model.path = str(path)
        params.n_ctx = context * slots
        params.n_parallel = slots
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.n_gpu_layers = gpu_layers
        params.fit_params = False  # it would load the model once more to see what fits
        params.verbosity = _SILENT
        params.warmup = params.ui = False
        params.model_alias = {path.stem}
        # it listens on a port of the loopback whether or not anyone asks it to
        self._secret = secrets.token_hex()
        params.port = public_port or 0
        params.api_keys = [self._secret] if public_port is None else []
        try:
            self._server = Server(params)
        except RuntimeError as error:
            raise BadInput(
                f"llama.cpp cannot load {path} with a context of {context} for {slots} texts at once: expected a "
                "complete GGUF file of a model it knows, and memory for it"
            ) from error

    @property
    def address(self) -> str:
        """Where it listens: http://127.0.0.1:PORT."""
        return self._server.listening_address

    def complete(self, prompt: Prompt, options: dict[str, Any]) -> Completion:
        """Continue a text, or answer a chat.

        Raises:
            BadInput: Llama.cpp refuses the prompt.
        """
        if isinstance(prompt, str):
            answer = self._server.handle_completions({"prompt": prompt} | options)
        else:
            answer = self._server.handle_chat_completions({"messages": messages_of(prompt)} | options)
        (choice,), usage = _checked(answer)["choices"], answer["usage"]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        return completion_of(text, choice["finish_reason"], usage["completion_tokens"], usage["prompt_tokens"])

    def log_likelihood(self, prompt: str, continuation: str) -> tuple[float, int]:
        """Return the sum of log p over a continuation's tokens, and their number; a request for each."""
        before = self._tokens(prompt, special=True)
        tokens = self._tokens(continuation, special=False)
        total = 0.0
        for index, token in enumerate(tokens):
            request = {"prompt": before + tokens[:index], "max_tokens": 1, "n_probs": 1, "temperature": 0.0}
            forced = {"cache_prompt": False, "logit_bias": [[token, 1e6]]}
            answer = _checked(self._server.handle_completions(request | forced))
            total += answer["choices"][0]["logprobs"]["content"][0]["logprob"]
        return total, len(tokens)

    def close(self) -> None:
        """Stop listening, and free the model."""
        del self._server  # its own destructor ends its threads

    def size(self, prompt: Prompt) -> int:
        """Tokens of a prompt; of a chat without its template's own, some ten a message."""
        return len(self._tokens(plain(prompt), special=True))

    def _tokens(self, text: str, *, special: bool) -> list[int]:
        body = json.dumps({"content": text, "add_special": special}).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._secret}"}
        request = urllib.request.Request(f"{self.address}/tokenize", body, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["tokens"]


def options_of(sampling: Sampling) -> dict[str, Any]:
    """Return the fields of a request: temperature first, as everywhere else, and nothing that was not asked for."""
    options = sampling.as_dict()
    schema = options.pop("schema", None)
    # llama.cpp cuts off improbable tokens unless told not to, and applies the temperature last
    options |= {"min_p": 0.0, "samplers": ["temperature", "top_k", "top_p"]}
    return options if schema is None else options | {"json_schema": schema}


def plain(prompt: Prompt) -> str:
    """Return what a prompt says, without its roles."""
    return prompt if isinstance(prompt, str) else "\n".join(message.content for message in prompt)


def _checked(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict) or "error" in answer:
        error = answer.get("error", {}) if isinstance(answer, dict) else {}
        raise BadInput(f"llama.cpp refused a prompt ({error.get('message', answer)}): shorten or change it")
    return answer
