"""What a judge answered when it was asked which of n numbered texts may stay.

    by schema      {"eligible": [1, 3]}       of a model whose answers follow `ELIGIBLE`; of any other:

    numbers        1, 3 and 4         #1; #3          1-3          Eligible: 1, 3          one number a line
    a JSON list    [1, 3]             ["1", "3"]      []
    a word         none               all             all but 2
    one by one     1: yes             2. not eligible

Everything else, and an answer that was cut, keeps all n texts and is counted: a slip of form shall cost no texts,
and none shall go unsaid.

    unreadable        none of these forms, or two that differ
    truncated         cut at max_tokens before a line had ended
    unknown number    beyond 1..n, beside others that are not; these alone are no answer
"""

from __future__ import annotations

import json
import re
from collections import Counter

from fedlab.llm.language_model import Completion
from fedlab.llm.synthesis.parsing import TRUNCATED


def _words(line: str) -> set[str]:
    return set(re.findall(r"[^\W\d]+", line))


ELIGIBLE = {
    "type": "object",
    "properties": {"eligible": {"type": "array", "items": {"type": "integer"}}},
    "required": ["eligible"],
    "additionalProperties": False,
}
"""JSON schema of an answer."""
UNREADABLE, UNKNOWN = "unreadable", "unknown number"

_THOUGHT = re.compile(r"^.*</think>", re.DOTALL)
_MARKUP = re.compile(r"[*_`#\"'“”‘’]|^\s*>|^\s*[-•]\s", re.MULTILINE)
_LIST = re.compile(r"\[[\s\d,;\"']*\]")
_NUMBER = re.compile(r"\d+")
_RANGE = re.compile(r"(\d+)\s*(?:-|–|to|through)\s*(\d+)")
_ONE = re.compile(
    r"\b(\d+)\s*[.):=–-]?\s*(?:is\s+)?(yes|true|keep|eligible|no|false|drop|not|ineligible)\b(?:\s+eligible)?"
)
_YES = ("yes", "true", "keep", "eligible")
_BUT = re.compile(r"\ball\b(?: of them| texts)?,? (?:but|except)(?: for)?")
_REASON = re.compile(r"\b(?:because|since|as)\b.*")
_HARMLESS = _words(
    "a an and answer are eligible following i is keep kept list number numbers of only should stay text texts the "
    "them these through to those valid would"
)
_DENIALS = _words("not ineligible drop dropped duplicate duplicates exclude excluded reject rejected remove")
_NONE, _ALL = {"none", "nothing", "no"}, {"all", "every"}


def numbers_in(answer: Completion, n: int, unread: Counter[str]) -> set[int]:
    """Return which of the texts 1..n an answer lets stay: all of them where it cannot be read.

    Args:
        answer: Answer of a judge.
        n: Number of texts it was asked about.
        unread: Counter of what could not be read, and why.
    """
    everyone = set(range(1, n + 1))
    text = _THOUGHT.sub("", answer.text).strip()
    numbers = _by_schema(text)
    if numbers is None:
        if answer.finish == "length":
            text = text.rpartition("\n")[0]  # of the last line nobody knows how it goes on
            if not text.strip():
                unread[TRUNCATED] += 1
                return everyone
        numbers = _in_words(text, n)
    if numbers is None or (numbers and not numbers & everyone):
        unread[UNREADABLE] += 1
        return everyone
    if numbers - everyone:
        unread[UNKNOWN] += len(numbers - everyone)
    return numbers & everyone


def _by_schema(text: str) -> set[int] | None:
    try:
        numbers = json.loads(text)["eligible"]
    except (ValueError, KeyError, TypeError, IndexError):
        return None
    return set(numbers) if isinstance(numbers, list) and all(type(one) is int for one in numbers) else None


def _in_words(text: str, n: int) -> set[int] | None:
    lists = list(_LIST.finditer(text))
    if len(lists) == 1:
        lead = text[: lists[0].start()].rpartition("\n")[2].lower()
        return None if _words(lead) & _DENIALS else set(map(int, _NUMBER.findall(lists[0][0])))
    text = _MARKUP.sub(" ", text).lower()
    stays = {int(number): word in _YES for number, word in _ONE.findall(text)}
    if stays and len(stays) == len(_NUMBER.findall(text)):
        # 'not 2' says nothing of the others
        whole = all(stays.values()) or set(stays) >= set(range(1, n + 1))
        return {number for number, yes in stays.items() if yes} if whole else None
    lines = [line for line in text.splitlines() if line.strip()]
    read = [numbers for line in lines if (numbers := _line(line, n)) is not None]
    if len(read) == len(lines) > 0 and not any(_words(line) & (_NONE | _ALL) for line in lines[1:]):
        return set().union(*read)
    return read[0] if len(read) == 1 else None  # a line of numbers, and talk around it


def _line(line: str, n: int) -> set[int] | None:
    """Return the numbers of a line that says nothing else; None of any other line."""
    everyone = set(range(1, n + 1))
    if but := _BUT.search(line):
        others = _line(line[but.end() :], n)
        return everyone - others if others else None
    line = _REASON.sub("", line)
    words, numbers = _words(line), _spelled(line)
    if words - _HARMLESS - _NONE - _ALL:
        return None
    if words & _NONE:
        return None if numbers or words & _ALL else set()
    if words & _ALL:
        return everyone if numbers <= {n} else None
    return numbers or None


def _spelled(line: str) -> set[int]:
    """Return the numbers of a line, ranges counted out."""
    numbers = set(map(int, _NUMBER.findall(line)))
    for first, last in _RANGE.findall(line):
        numbers |= set(range(int(first), min(int(last), int(first) + 999) + 1))
    return numbers
