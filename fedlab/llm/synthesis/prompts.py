"""How a model is asked for a text like others: templates with named fields, as a config holds them.

    completion    instruction, one record per demonstration, and the beginning of one more record
    chat          system; user: the same records and what is wanted
    judge         user: numbered texts, and which of them are eligible

A record is a template of `domain`, `label` and `text`. A base model continues where {text} would stand and stops
at `stop`; a model tuned for chat answers with records, which `parsing.py` finds again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import Formatter

from fedlab.errors import BadInput, unknown
from fedlab.llm.language_model import Message, Prompt

FIELDS = ("domain", "label", "text")


@dataclass(frozen=True)
class Prompts:
    """Templates, what domains and labels are called in them, and demonstrations to begin with.

    Args:
        record: Template of a labelled text: '{domain} ({label}): {text}'. Must have the field text.
        domains: Names of domains: {'amazon': 'Product review'}. A domain that is not here is refused.
        labels: Names of labels. Empty: a label is called what it is.
        demonstrations: Texts that are nobody's, by domain and label, for as long as there are no better ones.
        instruction: Template before the records; fields domain, label. Empty for none.
        separator: String between records.
        stop: Strings before which a record ends.
        question: Template with which a label is asked for; fields text, domain. The label is the continuation.
        chat: Whether `prompt` gives messages instead of a text to continue.
        system: Template with which a chat begins; fields domain, label. Empty for none.
        request: Template of what a chat asks after the records; fields domain, label.
        code, code_alone: Templates of the code behind which a generator learns a text of a label, and one whose label
            nobody knows; fields domain, label. Words that a language model understands serve it from the first step.
        judge: Template of the question to a judge in a chat; field texts. Empty for prompts that ask no judge.
        judged: Template of a text that is shown to it, in a line; fields number, domain, label, text.

    Raises:
        BadInput: A template has an unknown field, an unpaired brace or lacks one it needs; there is no domain or no
            stop string; a demonstration is of no known domain. Methods: a domain or label is unknown (names the known
            ones), or a judge is to be asked without a template `judge`.
    """

    record: str
    domains: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=dict)
    demonstrations: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    instruction: str = ""
    separator: str = "\n"
    stop: tuple[str, ...] = ("\n",)
    question: str = "{domain}: {text}\nThis is"
    chat: bool = False
    system: str = ""
    request: str = "Write one more record of {domain} ({label}), in the same form, and nothing else."
    code: str = "{domain} | {label}"
    code_alone: str = "{domain}"
    judge: str = ""
    judged: str = "{number}. ({domain}, {label}) {text}"

    def __post_init__(self) -> None:
        # a config's own containers neither compare nor travel like plain ones
        plain = {
            "domains": {str(k): str(v) for k, v in self.domains.items()},
            "labels": {str(k): str(v) for k, v in self.labels.items()},
            "stop": (self.stop,) if isinstance(self.stop, str) else tuple(self.stop),
            "demonstrations": {
                str(domain): {str(label): tuple(map(str, texts)) for label, texts in of.items()}
                for domain, of in self.demonstrations.items()
            },
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        _check("record", self.record, FIELDS, "text")
        _check("question", self.question, ("text", "domain"), "text")
        for name in ("instruction", "system", "request"):
            _check(name, getattr(self, name), ("domain", "label"))
        _check("code", self.code, ("domain", "label"), "label")
        _check("code_alone", self.code_alone, ("domain",))
        _check("judge", self.judge, ("texts",), *(["texts"] if self.judge else []))
        _check("judged", self.judged, ("number", *FIELDS), "number", "text")
        if not self.domains:
            raise BadInput("prompts without domains: name at least one, as domains: {reviews: Review}")
        if not self.chat and not all(self.stop or [""]):
            raise BadInput(f"stop strings {self.stop}: a record that is continued needs one that ends it")
        for domain in self.demonstrations:
            self.called(domain)

    def prompt(self, domain: str, label: str, texts: Sequence[str]) -> Prompt:
        """Ask for one more text of a domain and label, after demonstrations of it.

        Args:
            domain, label: Keys of `domains` and `labels`.
            texts: Demonstrations; line breaks in them become spaces, or they would end their record.
        """
        names = {"domain": self.called(domain), "label": self.label(label)}
        records = [self.record.format(text=" ".join(text.split()), **names) for text in texts]
        head = [self.instruction.format(**names)] if self.instruction else []
        if not self.chat:
            # a space before the text belongs to its first token: left here, it makes that token improbable
            begun = self.record[: self.record.index("{text}")].format(**names).rstrip(" ")
            return self.separator.join([*head, *records, begun])
        question = self.separator.join([*head, *records, self.request.format(**names)])
        system = [Message("system", self.system.format(**names))] if self.system else []
        return (*system, Message("user", question))

    def own(self, domain: str, label: str) -> tuple[str, ...]:
        """Return the demonstrations that came with the prompts, perhaps none."""
        return tuple(self.demonstrations.get(domain, {}).get(label, ()))

    def texts(self) -> list[str]:
        """Return every demonstration that came with the prompts: what must not come back as new."""
        return [text for of in self.demonstrations.values() for texts in of.values() for text in texts]

    def asks(self, domain: str, text: str) -> str:
        """Return the question whose likeliest continuation is the label of a text."""
        return self.question.format(text=" ".join(text.split()), domain=self.called(domain))

    def which(self, texts: Sequence[tuple[str, str, str]]) -> Prompt:
        """Ask a judge which of some texts are eligible: it sees them all, numbered from 1 on.

        Args:
            texts: Triples of domain, label and text.
        """
        self.check_judge()
        shown = []
        for number, (domain, label, text) in enumerate(texts, 1):
            names = {"domain": self.called(domain), "label": self.label(label)}
            shown.append(self.judged.format(number=number, text=" ".join(text.split()), **names))
        return (Message("user", self.judge.format(texts="\n".join(shown))),)

    def codes(self, domain: str, labels: Sequence[str]) -> list[str]:
        """Return the code of each label, and in the end that of texts without one."""
        called = self.called(domain)
        named = [self.code.format(domain=called, label=self.label(label)) for label in labels]
        return [*named, self.code_alone.format(domain=called)]

    def check_judge(self) -> None:
        """Refuse to ask a judge without words to ask with."""
        if not self.judge:
            raise BadInput(
                "a judge is to be asked in a chat (judge=chat), and these prompts have no template judge: write one "
                "with the field {texts} as prompts.judge, or choose judge=likelihood"
            )

    def called(self, domain: str) -> str:
        """Return what a domain is called in a prompt."""
        if domain not in self.domains:
            raise unknown("domain", domain, self.domains)
        return self.domains[domain]

    def label(self, label: str) -> str:
        """Return what a label is called in a prompt."""
        if self.labels and label not in self.labels:
            raise unknown("label", label, self.labels)
        return self.labels.get(label, label)


def _check(name: str, template: str, known: Sequence[str], *needed: str) -> None:
    try:
        fields = [(word, spec, how) for _, word, spec, how in Formatter().parse(template) if word is not None]
    except ValueError as error:
        raise BadInput(f"template {name} {template!r}: {error}; write a brace that is no field twice") from error
    for word, spec, how in fields:
        if word not in known:
            raise unknown(f"field of the template {name}", word, known)
        if spec or how:
            raise BadInput(f"template {name} {template!r}: write the field as {{{word}}} and nothing more")
    for one in needed:
        times = sum(word == one for word, _, _ in fields)
        if times != 1:
            raise BadInput(f"template {name} {template!r} has {{{one}}} {times} times: once is needed")
