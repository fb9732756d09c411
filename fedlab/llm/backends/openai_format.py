"""What an OpenAI-compatible endpoint is asked and answers; what is not in its form raises what reading it raises."""

from __future__ import annotations

from typing import Any

from fedlab import errors
from fedlab.llm.language_model import Completion, Message


def messages_of(chat: tuple[Message, ...]) -> list[dict[str, str]]:
    """Return a chat as a request has it."""
    return [{"role": message.role, "content": message.content} for message in chat]


def completion_of(text: object, finish: object, tokens: int, prompt_tokens: int) -> Completion:
    """Return a choice of an answer.

    Raises:
        TypeError: The text is none.
    """
    if not isinstance(text, str) and text is not None:
        raise TypeError(f"a text is {type(text).__name__}")
    return Completion(text or "", tokens, prompt_tokens, "length" if finish == "length" else "stop")


def text_of(answer: Any) -> Completion:
    """Return the first text of a completion or a chat; tokens are 0 where the endpoint counts none."""
    choice, usage = answer.choices[0], answer.usage
    text = choice.message.content if hasattr(choice, "message") else choice.text
    counts = (usage.completion_tokens, usage.prompt_tokens) if usage else (0, 0)
    return completion_of(text, choice.finish_reason, *counts)


def echoed(answer: Any) -> tuple[list[int], list[float | None]] | None:
    """Return where each token of an echoed prompt begins and its log p, or None if there was no echo."""
    logprobs = answer.choices[0].logprobs
    offsets = getattr(logprobs, "text_offset", None)
    values = getattr(logprobs, "token_logprobs", None)
    return (offsets, values) if offsets and values and len(values) > 1 else None


def reason(error: Exception) -> str:
    """Return what lies under a client's error, in one line."""
    cause = error.__cause__
    return errors.reason(cause if cause is not None and str(cause).strip() else error)[:200]


def retry_after(error: Any) -> float:
    """Return the seconds after which an endpoint wants to be asked again; 0 if it does not say."""
    try:
        return max(0.0, float(error.response.headers.get("retry-after", 0)))
    except ValueError:  # a date
        return 0.0
