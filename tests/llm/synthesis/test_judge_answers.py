"""Whatever form a judge's answer has: it is read rightly, or it is counted and costs no text."""

from collections import Counter

import pytest

from fedlab.llm.language_model import Completion
from fedlab.llm.synthesis.judge_answers import UNKNOWN, UNREADABLE, numbers_in
from fedlab.llm.synthesis.parsing import TRUNCATED


def read(text: str, n: int = 5, finish: str = "stop") -> tuple[list[int], Counter[str]]:
    unread: Counter[str] = Counter()
    return sorted(numbers_in(Completion(text, 1, 1, finish), n, unread)), +unread


@pytest.mark.parametrize(
    ("said", "numbers"),
    [
        ("1, 3 and 4", [1, 3, 4]),
        ("1,3,4.", [1, 3, 4]),
        ("#1; #3", [1, 3]),
        ("2", [2]),
        ("1\n3\n4", [1, 3, 4]),
        ("- 1\n- 3", [1, 3]),
        ("1-3, 5", [1, 2, 3, 5]),
        ("1 to 3", [1, 2, 3]),
        ("**Eligible:** 1, 3", [1, 3]),
        ("The eligible texts are 1 and 3.", [1, 3]),
        ("I would keep only texts 2 and 4 because they are on topic", [2, 4]),
        ("1, 3\n\nText 2 says what 1 says.", [1, 3]),
        ("Two of them are about cars.\nAnswer: 1, 3", [1, 3]),
        ("<think>maybe 2, maybe not</think>\n1, 3", [1, 3]),
        ("Not eligible: 2\nEligible: 1, 3", [1, 3]),
        ("[1, 3]", [1, 3]),
        ('```json\n["1", "3"]\n```', [1, 3]),
        ("Here is what may stay: [1, 3]", [1, 3]),
        ("[1] and [3]", [1, 3]),
        ("[]", []),
        ("None.", []),
        ("No texts are eligible", []),
        ("none of them", []),
        ("All", [1, 2, 3, 4, 5]),
        ("All 5 texts are eligible.", [1, 2, 3, 4, 5]),
        ("all but 2 and 3", [1, 4, 5]),
        ("All texts, except for 5", [1, 2, 3, 4]),
        ("1: yes\n2: no\n3: yes\n4. not eligible\n5) eligible", [1, 3, 5]),
        ("3 is eligible", [3]),
    ],
)
def test_forms_that_are_read(said, numbers):
    assert read(said) == (numbers, {})


@pytest.mark.parametrize(
    "said",
    [
        "",
        "I cannot help with that.",
        "2 is not eligible",
        "Drop 2.",
        "Not eligible: [2]",
        "Duplicates: [2]. Eligible: [1, 3].",
        "I keep 1.\nI drop 2.\nI keep 3.",
        "all, none",
        "none of 1 and 2",
        "1, 3\n2, 4\nI am not sure which.",
        "All 3 of them",
        "0",
        "17",
        "Which numbers are eligible?",
        "1 2 3 the battery died",
    ],
)
def test_what_cannot_be_read_keeps_everyone_and_is_counted(said):
    assert read(said) == ([1, 2, 3, 4, 5], {UNREADABLE: 1})


def test_numbers_of_no_text_are_counted_beside_those_that_are():
    assert read("1, 3, 9 and 12") == ([1, 3], {UNKNOWN: 2})
    assert read("1-9999999") == ([1, 2, 3, 4, 5], {UNKNOWN: 996})


def test_of_an_answer_that_was_cut_whole_lines_count():
    assert read("1, 3, 1", finish="length") == ([1, 2, 3, 4, 5], {TRUNCATED: 1})
    assert read("1, 3\n\nText 2 is", finish="length") == ([1, 3], {})


@pytest.mark.parametrize(
    ("text", "numbers"), [('{"eligible": [1, 3]}', [1, 3]), ('{"eligible": []}', []), (' {"eligible":[5]}\n', [5])]
)
def test_an_answer_by_schema_is_read_as_such(text, numbers):
    assert read(text) == (numbers, {})
    assert read(text, finish="length") == (numbers, {})  # whole, however it ended


def test_numbers_by_schema_are_counted_like_others():
    assert read('{"eligible": [1, 9]}') == ([1], {UNKNOWN: 1})
    assert read('{"eligible": [9]}') == ([1, 2, 3, 4, 5], {UNREADABLE: 1})
    assert read('{"eligible": [1, 2', finish="length") == ([1, 2, 3, 4, 5], {TRUNCATED: 1})
    assert read('{"eligible": [true]}') == ([1, 2, 3, 4, 5], {UNREADABLE: 1})
    assert read('{"eligible": "all"}') == ([1, 2, 3, 4, 5], {})  # not by the schema, and plain enough
