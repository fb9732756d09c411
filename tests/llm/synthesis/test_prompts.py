from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hydra.utils import instantiate

from experiments.config.compose import compose
from fedlab.errors import BadInput
from fedlab.llm.language_model import Completion, Message, Sampling
from fedlab.llm.synthesis.parsing import EMPTY, NO_FORMAT, TRUNCATED, first_text, records_in
from fedlab.llm.synthesis.prompts import Prompts

CONF = Path(__file__).parents[3] / "conf"
REVIEWS = Prompts(
    record="{domain} ({label}): {text}",
    domains={"film": "Film", "film_plot": "Film plot"},
    labels={"pos": "positive", "neg": "negative"},
    demonstrations={"film": {"pos": ["A joy."], "neg": ["A\n bore."]}},
)


def answer(text, finish="stop"):
    return Completion(text, 1, 1, finish)


def test_a_completion_prompt_ends_where_the_text_begins():
    asked = REVIEWS.prompt("film", "neg", REVIEWS.own("film", "neg"))
    assert asked == "Film (negative): A bore.\nFilm (negative):"
    assert REVIEWS.prompt("film_plot", "pos", ()) == "Film plot (positive):"
    assert REVIEWS.own("film_plot", "pos") == ()
    assert REVIEWS.texts() == ["A joy.", "A\n bore."]


def test_a_chat_shows_the_records_and_asks():
    chat = Prompts("{label}: {text}", {"d": "D"}, chat=True, system="Write {domain}.", request="One {label}!")
    asked = chat.prompt("d", "good", ["a {text}"])
    assert asked == (Message("system", "Write D."), Message("user", "good: a {text}\nOne good!"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"record": "{labl}: {text}"}, r"unknown field .*record 'labl': known are domain, label, text; did you"),
        ({"record": "{label}:"}, r"has \{text\} 0 times: once is needed"),
        ({"record": "{text} {text}"}, "2 times: once"),
        ({"record": "{text!r}"}, r"write the field as \{text\}"),
        ({"record": "{text"}, "write a brace that is no field twice"),
        ({"instruction": "{text}"}, "unknown field .*instruction 'text': known are domain, label"),
        ({"judge": "Which?"}, r"template judge .* has \{texts\} 0 times: once is needed"),
        ({"judge": "{texts} {label}"}, "unknown field .*judge 'label': known are texts"),
        ({"judged": "{text}"}, r"template judged .* has \{number\} 0 times"),
        ({"judged": "{number} {txt}"}, "unknown field .*judged 'txt': .*did you mean 'text'"),
        ({"domains": {}}, "prompts without domains"),
        ({"stop": [""]}, "needs one that ends it"),
        ({"stop": []}, "needs one that ends it"),
        ({"demonstrations": {"film": {}}}, "unknown domain 'film': known are d"),
    ],
)
def test_templates_that_cannot_work_are_refused(options, message):
    with pytest.raises(BadInput, match=message):
        Prompts(**({"record": "{label}: {text}", "domains": {"d": "D"}} | options))


def test_a_judge_sees_every_text_by_its_number():
    asks = replace(REVIEWS, judge="Judge:\n{texts}\nWhich?")
    (message,) = asks.which([("film", "pos", "A\n joy."), ("film_plot", "neg", "A {bore}.")])
    expected = "Judge:\n1. (Film, positive) A joy.\n2. (Film plot, negative) A {bore}.\nWhich?"
    assert message == Message("user", expected)
    with pytest.raises(BadInput, match=r"no template judge: write one .*\{texts\}.* or choose judge=likelihood"):
        REVIEWS.which([("film", "pos", "A joy.")])


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(BadInput, match="unknown domain 'films': known are film, film_plot; did you mean 'film'"):
        REVIEWS.prompt("films", "pos", ())
    with pytest.raises(BadInput, match="unknown label 'po': known are neg, pos"):
        REVIEWS.prompt("film", "po", ())


@pytest.mark.parametrize(
    ("given", "text", "why"),
    [
        (answer(" Good film. "), "Good film.", None),
        (answer('"Good film."\n\nFilm'), "Good film.", None),
        (answer("One two. Three fo", "length"), "One two.", None),
        (answer("One two thr", "length"), None, TRUNCATED),
        (answer("Whole line without a mark\nnext", "length"), "Whole line without a mark", None),
        (answer(" \n"), None, EMPTY),
        (answer("...!"), None, EMPTY),
    ],
)
def test_a_continuation_is_a_text_or_counted(given, text, why):
    dropped = Counter()
    assert first_text(given, dropped) == text
    assert dropped == ({why: 1} if why else {})


@pytest.mark.parametrize(
    "form",
    [
        "Film (positive): It sings.\nFilm plot (negative): It drags: on and on.",
        "Here are two:\n\n1. film (Positive) : It sings.\n2) FILM PLOT (negative): It drags: on and on.",
        '- **Film (positive):** "It sings."\n- **Film plot (negative):** It drags: on and on.\n\nHope it helps!',
        "Film(positive): It\nsings.\n\n> Film plot ( negative ) - It drags: on and on.",
        "“Film (positive): It sings.\n“Film plot (negative): It drags: on and on.",
    ],
)
def test_records_are_found_however_they_are_dressed(form):
    dropped = Counter()
    expected = ["It sings.", "It drags: on and on."]
    assert records_in(answer(form), REVIEWS, dropped) == expected
    assert not dropped


def test_a_list_without_labels_is_texts_without_labels():
    found = records_in(answer('Sure!\n1. "It sings."\n2. It drags.'), REVIEWS, Counter())
    assert found == ["It sings.", "It drags."]


def test_what_is_no_record_is_counted_by_its_reason():
    dropped = Counter()
    assert records_in(answer("I cannot help with that."), REVIEWS, dropped) == []
    assert records_in(answer(""), REVIEWS, dropped) == []
    cut = "Film (positive):\nFilm (positive): It is good.\nFilm (negative): It was the"
    assert records_in(answer(cut, "length"), REVIEWS, dropped) == ["It is good."]
    assert dropped == {NO_FORMAT: 1, EMPTY: 2, TRUNCATED: 1}


def test_what_a_prompt_shows_is_found_again():
    prompts = configured("prompts=reviews")
    for domain in prompts.domains:
        for label in prompts.labels:
            own = prompts.own(domain, label)
            shown = prompts.prompt(domain, label, own[:-1]) + " " + own[-1]
            dropped = Counter()
            assert records_in(answer(shown), prompts, dropped) == list(own)
            assert not dropped


def configured(choice):
    return instantiate(compose([choice])[choice.split("=")[0]])


@pytest.mark.parametrize("path", sorted((CONF / "prompts").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_choice_of_prompts_can_be_built(path):
    prompts = configured(f"prompts={path.stem}")
    for domain, labels in prompts.demonstrations.items():
        for label, texts in labels.items():
            asked = prompts.prompt(domain, label, texts)
            assert isinstance(asked, tuple if prompts.chat else str)
            assert not any(stop in text for text in texts for stop in prompts.stop)
    assert Sampling(stop=prompts.stop).stop == prompts.stop
    domain, label = next((d, label) for d, of in prompts.demonstrations.items() for label in of)
    (asked,) = prompts.which([(domain, label, "one of a kind")])
    assert "1. (" in asked.content and "one of a kind" in asked.content and "{" not in asked.content


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens=0 must be a whole number >= 1"),
        ({"temperature": -1.0}, r"temperature=-1\.0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_k": -1}, "top_k=-1"),
        ({"top_p": 0.0}, r"top_p=0\.0"),
        ({"top_p": 1.5}, r"top_p=1\.5"),
        ({"stop": ("",)}, "stop string ''"),
    ],
)
def test_sampling_out_of_range_is_refused(options, message):
    with pytest.raises(BadInput, match=message):
        Sampling(**options)


def test_a_lone_stop_string_is_one_string():
    assert Sampling(stop="ab").stop == ("ab",) == Sampling(stop=["ab"]).stop


def test_unknown_roles_and_finishes_are_refused():
    with pytest.raises(BadInput, match=r"unknown role 'usr': .*did you mean 'user'"):
        Message("usr", "")
    with pytest.raises(BadInput, match="unknown finish 'stopped'"):
        Completion("", 0, 0, "stopped")


def test_codes_name_each_label_and_then_none():
    plain = Prompts("- {text}", domains={"shop": "review"}, labels={"good": "kind"})
    assert plain.codes("shop", ["good"]) == ["review | kind", "review"]
    said = Prompts("- {text}", domains={"shop": "review"}, code="A {label} {domain}:", code_alone="A {domain}:")
    assert said.codes("shop", ["good", "bad"]) == ["A good review:", "A bad review:", "A review:"]
    for wrong, named in (({"code": "A {domain}:"}, "label"), ({"code_alone": "A {label}:"}, "label")):
        with pytest.raises(BadInput, match=named):
            Prompts("- {text}", domains={"shop": "review"}, **wrong)
    with pytest.raises(BadInput, match="unknown domain"):
        said.codes("film", ["good"])
