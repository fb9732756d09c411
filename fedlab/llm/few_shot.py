"""Few-shot prompts for a model that only continues: a list of texts of one domain and label, and room for another.

    header(label, domain)
    - demonstration 1
    ...
    - demonstration k
    -                        <- what the model writes here, up to the end of the line, is a text

The demonstrations of the prompts themselves are public: whoever writes a config wrote them. A text is what stands on
the first line of an answer; one that was cut keeps its whole sentences, and what has none is no text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

from fedlab.errors import BadInput, unknown
from fedlab.llm.models import Completion

_MARKS = re.compile(r"^(?:[-*•>]|\d+[.)])\s+")
_SENTENCES = re.compile(r"^.*[.!?][\"')]*(?=\s|$)", re.DOTALL)


@dataclass(frozen=True)
class FewShot:
    """The prompts of an experiment.

    Parameters
    ----------
    domains
        Name of a domain to what a text of it is called.
    demonstrations
        Domain to label to texts, at least one each.
    header
        With the fields `label` and `domain`.
    record
        With the field `text`: one demonstration.
    opening
        What stands before the text that is wanted.
    stop
        What ends it.
    question
        With `text` and `domain`: a label is its continuation, where likelihoods filter.

    Raises
    ------
    BadInput
        A template has another field, or a domain lacks demonstrations of a label.
    """

    domains: Mapping[str, str]
    demonstrations: Mapping[str, Mapping[str, Sequence[str]]]
    header: str = "Examples of a {label} {domain}, one per line:\n"
    record: str = "- {text}\n"
    opening: str = "-"
    stop: Sequence[str] = ("\n",)
    question: str = "A {domain}: {text}\nThe opinion is"

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", tuple(self.stop))
        for name, known in (
            ("header", ("label", "domain")),
            ("record", ("text",)),
            ("question", ("text", "domain")),
        ):
            _check_template(name, getattr(self, name), known)
        if missing := sorted(set(self.domains) ^ set(self.demonstrations)):
            raise BadInput(f"domains and demonstrations differ in {missing}: every domain needs both")
        labels = {label for of_domain in self.demonstrations.values() for label in of_domain}
        for domain, of_domain in self.demonstrations.items():
            for label in labels:
                if not of_domain.get(label):
                    raise BadInput(f"domain {domain!r} has no demonstration of {label!r}: write at least one")

    def texts(self) -> Iterator[str]:
        """Yield all demonstrations."""
        for of_domain in self.demonstrations.values():
            for texts in of_domain.values():
                yield from texts

    def own(self, domain: str, label: str) -> Sequence[str]:
        """Return the demonstrations of a domain and label.

        Raises
        ------
        BadInput
            One of them is unknown.
        """
        if domain not in self.demonstrations:
            raise unknown("domain", domain, self.demonstrations)
        if label not in self.demonstrations[domain]:
            raise unknown("label", label, self.demonstrations[domain])
        return self.demonstrations[domain][label]

    def prompt(self, domain: str, label: str, demonstrations: Sequence[str]) -> str:
        """Return a prompt with these demonstrations."""
        shown = "".join(self.record.format(text=" ".join(text.split())) for text in demonstrations)
        return self.header.format(label=label, domain=self.domains[domain]) + shown + self.opening

    def asks(self, domain: str, text: str) -> str:
        """Return the question whose likeliest answer is the label of a text."""
        return self.question.format(text=text, domain=self.domains[domain])


def text_of(answer: Completion, dropped: Counter[str]) -> str | None:
    """Return the text of an answer; None for an answer without one, counted under the name of why.

    Parameters
    ----------
    answer
        Of a model.
    dropped
        Where it is counted: empty, no format, truncated.
    """
    lines = answer.text.strip().splitlines()
    if not lines:
        dropped["empty"] += 1
        return None
    text = _MARKS.sub("", lines[0].strip()).strip().strip('"').strip()
    if answer.finish == "length" and len(lines) == 1:
        whole = _SENTENCES.match(text)
        if whole is None:
            dropped["truncated"] += 1
            return None
        text = whole.group().strip()
    if not any(character.isalpha() for character in text):
        dropped["no format"] += 1
        return None
    return text


def _check_template(name: str, template: str, known: Sequence[str]) -> None:
    try:
        fields = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
    except ValueError as error:
        raise BadInput(f"{name}={template!r} is no template ({error}): write {{{{ for a brace") from error
    if other := sorted(fields - set(known)):
        raise BadInput(f"{name}={template!r} has the field {other[0]!r}: known are {', '.join(known)}")
