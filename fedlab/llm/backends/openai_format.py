"""What an OpenAI-compatible endpoint answers, read; what is not in its form raises what reading it raises."""

from __future__ import annotations

from typing import Any

from fedlab.llm.language_model import Completion


def text_of(answer: Any) -> Completion:
    """Return the first text of a completion or a chat; tokens are 0 where the endpoint counts none."""
    choice = answer.choices[0]
    text = choice.message.content if hasattr(choice, "message") else choice.text
    if not isinstance(text, str) and text is not None:
        raise TypeError(f"a text is {type(text).__name__}")
    usage = answer.usage
    finish = "length" if choice.finish_reason == "length" else "stop"
    return Completion(
        text or "",
        usage.completion_tokens if usage else 0,
        usage.prompt_tokens if usage else 0,
        finish,
    )


def echoed(answer: Any) -> tuple[list[int], list[float | None]] | None:
    """Return where each token of an echoed prompt begins and its log p, or None if there was no echo."""
    told = answer.choices[0].logprobs
    offsets = getattr(told, "text_offset", None)
    values = getattr(told, "token_logprobs", None)
    return (offsets, values) if offsets and values and len(values) > 1 else None


def reason(error: Exception) -> str:
    """Return what lies under a client's error, in one line."""
    said = str(error.__cause__ or error).strip() or type(error).__name__
    return said.splitlines()[0][:200]


def retry_after(error: Any) -> float:
    """Return the seconds after which an endpoint wants to be asked again; 0 if it does not say."""
    try:
        return max(0.0, float(error.response.headers.get("retry-after", 0)))
    except ValueError:  # a date
        return 0.0
