"""What a model answered as texts, and why what is no text was dropped.

A base model's continuation is one text (`first_text`). A chat's answer should be records in the form of the
demonstrations, and often is so only nearly: numbered, quoted, in bold, in another case, behind a polite
sentence. `records_in` takes all of these; whatever it cannot take it counts, under

    no format    nothing in the answer looks like a record
    empty        a record without a text
    truncated    cut at max_tokens before its first sentence ended
"""

from __future__ import annotations

import re
from collections import Counter

from fedlab.llm.language_model import Completion
from fedlab.llm.synthesis.prompts import Prompts

NO_FORMAT, EMPTY, TRUNCATED = "no format", "empty", "truncated"

_MARKS = r"[\s>*_#`\"'“”‘’-]*"
_NUMBER = r"(?:\(?\d{1,3}[.):]\s*)?"
_ITEM = re.compile(r"^\s*(?:[-*•]|\(?\d{1,3}[.):])\s+(?P<text>.*)$", re.MULTILINE)
_SENTENCE = re.compile(r"[.!?…][\"'”’)]*(?=\s|$)")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "`": "`"}


def first_text(answer: Completion, dropped: Counter[str]) -> str | None:
    """Return the text with which a model continued a record, or None, and count in `dropped` why there is none.

    A text that was cut at max_tokens is kept up to its last whole sentence.
    """
    text = answer.text.strip()
    line = next(iter(text.splitlines()), "")
    return _accepted(line, answer.finish == "length" and line == text, dropped)


def records_in(answer: Completion, prompts: Prompts, dropped: Counter[str]) -> list[str]:
    """Return the text of every record of an answer, in their order, each in one line.

    Args:
        answer: Answer of a chat, or of a base model that was let write on.
        prompts: Prompts whose record, domains and labels to look for. An answer without a record in this form may
            still be a list: its items are texts.
        dropped: Counter of what was dropped and why.
    """
    records = _records(answer.text, prompts) or [item["text"] for item in _ITEM.finditer(answer.text)]
    if not records:
        dropped[NO_FORMAT if answer.text.strip() else EMPTY] += 1
    last = len(records) - 1
    texts = [_accepted(r, answer.finish == "length" and i == last, dropped) for i, r in enumerate(records)]
    return [text for text in texts if text is not None]


def _records(text: str, prompts: Prompts) -> list[str]:
    """Split at every place where a record begins: what is between two is a text."""
    begins = list(_beginning(prompts).finditer(text))
    ends = [*(following.start() for following in begins[1:]), len(text)]
    bodies = [text[here.end() : end].strip("\n") for here, end in zip(begins, ends, strict=False)]
    # whatever a model says after its last record stands apart from it
    return [re.split(r"\n\s*\n", body, maxsplit=1)[0] for body in bodies]


def _beginning(prompts: Prompts) -> re.Pattern[str]:
    """Make a pattern of what stands before {text}: any case, any spaces, with or without marks around it."""
    before = prompts.record[: prompts.record.index("{text}")].strip().rstrip(":")
    values = {"{domain}": prompts.domains.values(), "{label}": prompts.labels.values()}
    pattern = ""
    for part in re.split(r"(\{domain\}|\{label\})", before):
        if part in values:
            # longest first, or 'Review' would be found in 'Review of a film'
            known = sorted(map(re.escape, values[part]), key=len, reverse=True)
            pattern += "(?:" + ("|".join(known) or r"[^\n:,()]{1,40}?") + ")"
        else:
            marks = [re.escape(word) for word in re.findall(r"\w+|[^\w\s]", part)]
            pattern += r"\s*".join(["", *marks, ""])
    return re.compile(rf"^{_MARKS}{_NUMBER}{_MARKS}{pattern}\s*[*_]*\s*[:\-–—]\s*[*_]*", re.I | re.M)


def _accepted(text: str, cut: bool, dropped: Counter[str]) -> str | None:
    text = _bare(text)
    if cut and text:
        ends = [match.end() for match in _SENTENCE.finditer(text)]
        text = _bare(text[: ends[-1]]) if ends else ""
        if not text:
            dropped[TRUNCATED] += 1
            return None
    if not any(character.isalnum() for character in text):
        dropped[EMPTY] += 1
        return None
    return text


def _bare(text: str) -> str:
    """Take away spaces, emphasis and a pair of quotes around the whole."""
    text = " ".join(text.split()).strip("*_ ")
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text
