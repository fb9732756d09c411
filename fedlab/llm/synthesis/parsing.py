"""What a model answered as texts, and why what is no text was dropped.

A base model's continuation is one text (`first_text`). A chat's answer should be records in the form of the
demonstrations, and often is so only nearly: numbered, quoted, in bold, in another case, behind a polite
sentence. `records_in` takes all of these; whatever it cannot take it counts, under

    no format    nothing in the answer looks like a record
    empty        a record without a text
    short        fewer than min_words words
    truncated    cut at max_tokens before its first sentence ended
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from fedlab.llm.language_model import Completion
from fedlab.llm.synthesis.prompts import Prompts

NO_FORMAT, EMPTY, SHORT, TRUNCATED = "no format", "empty", "short", "truncated"

_MARKS = r"[\s>*_#`\"'“”‘’-]*"
_NUMBER = r"(?:\(?\d{1,3}[.):]\s*)?"
_ITEM = re.compile(r"^\s*(?:[-*•]|\(?\d{1,3}[.):])\s+(?P<text>.*)$", re.MULTILINE)
_SENTENCE = re.compile(r"[.!?…][\"'”’)]*(?=\s|$)")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "`": "`"}


@dataclass(frozen=True)
class Record:
    """A text that was found in an answer.

    Parameters
    ----------
    text
        Text in one line.
    domain, label
        Domain and label that the record names, by their keys in the prompts; None where it does not.
    """

    text: str
    domain: str | None = None
    label: str | None = None


def first_text(answer: Completion, dropped: Counter[str], *, min_words: int = 1) -> str | None:
    """Return the text with which a model continued a record, or None.

    A text that was cut at max_tokens is kept up to its last whole sentence.

    Parameters
    ----------
    answer
        Answer to a prompt that ends where a text begins.
    dropped
        Counter of why there is none.
    min_words
        Words of a text at least; fewer are dropped as short.
    """
    text = answer.text.strip()
    line = next(iter(text.splitlines()), "")
    cut = answer.finish == "length" and line == text
    return _accepted(line, cut, dropped, min_words)


def records_in(
    answer: Completion, prompts: Prompts, dropped: Counter[str], *, min_words: int = 1
) -> list[Record]:
    """Return every record of an answer, in its order.

    Parameters
    ----------
    answer
        Answer of a chat, or of a base model that was let write on.
    prompts
        Prompts whose record, domains and labels to look for. An answer without a record in this form may still be a
        list: its items are texts that name no label.
    dropped
        Counter of what was dropped and why.
    min_words
        Words of a text at least; fewer are dropped as short.
    """
    raw = _records(answer.text, prompts) or [Record(item["text"]) for item in _ITEM.finditer(answer.text)]
    if not raw:
        dropped[NO_FORMAT if answer.text.strip() else EMPTY] += 1
        return []
    kept = []
    for index, one in enumerate(raw):
        cut = answer.finish == "length" and index == len(raw) - 1
        text = _accepted(one.text, cut, dropped, min_words)
        if text is not None:
            kept.append(Record(text, one.domain, one.label))
    return kept


def _records(text: str, prompts: Prompts) -> list[Record]:
    """Split at every place where a record begins: what is between two is a text."""
    begins = list(_beginning(prompts).finditer(text))
    records = []
    for here, following in zip(begins, [*begins[1:], None], strict=False):
        body = text[here.end() : following.start() if following else len(text)]
        # whatever a model says after its last record stands apart from it
        body = re.split(r"\n\s*\n", body.strip("\n"), maxsplit=1)[0]
        domain, label = (here.groupdict().get(name) for name in ("domain", "label"))
        records.append(Record(body, _key(prompts.domains, domain), _key(prompts.labels, label)))
    return records


def _beginning(prompts: Prompts) -> re.Pattern[str]:
    """Make a pattern of what stands before {text}: any case, any spaces, with or without marks around it."""
    before = prompts.record[: prompts.record.index("{text}")].strip().rstrip(":")
    values = {"domain": prompts.domains.values(), "label": prompts.labels.values()}
    pattern, seen = "", set()
    for part in re.split(r"(\{domain\}|\{label\})", before):
        name = part.strip("{}")
        if part in ("{domain}", "{label}"):
            # longest first, or 'Review' would be found in 'Review of a film'
            known = sorted(map(re.escape, values[name]), key=len, reverse=True)
            any_of = "|".join(known) or r"[^\n:,()]{1,40}?"
            pattern += f"(?:{any_of})" if name in seen else f"(?P<{name}>{any_of})"
            seen.add(name)
        else:
            marks = [re.escape(word) for word in re.findall(r"\w+|[^\w\s]", part)]
            pattern += r"\s*".join(["", *marks, ""])
    return re.compile(rf"^{_MARKS}{_NUMBER}{_MARKS}{pattern}\s*[*_]*\s*[:\-–—]\s*[*_]*", re.I | re.M)


def _key(names: Mapping[str, str], called: str | None) -> str | None:
    if called is None:
        return None
    return next((key for key, name in names.items() if name.lower() == called.lower()), called.lower())


def _accepted(text: str, cut: bool, dropped: Counter[str], min_words: int) -> str | None:
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
    if len(text.split()) < min_words:
        dropped[SHORT] += 1
        return None
    return text


def _bare(text: str) -> str:
    """Take away spaces, emphasis and a pair of quotes around the whole."""
    text = " ".join(text.split()).strip("*_ ")
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text
