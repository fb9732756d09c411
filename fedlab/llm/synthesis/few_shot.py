"""A writer: a language model with its prompts, asked for texts of given domains and labels.

    prompt(domain, label) = a own demonstrations + (k - a) selected ones, in an order of chance, and room for another

The prompts' own demonstrations are right about their label; those that clients' votes selected are like the clients'
texts and less sure.
A prompt with both keeps the label from drifting. Demonstrations are drawn anew for every prompt, so that no text of
theirs is in all. A base model goes on with the list until its tokens are spent, so that a prompt, once read, gives
several texts. Answers are kept by the hash of what was asked: what was paid for is never asked again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedlab import checks
from fedlab.errors import BadInput
from fedlab.llm.backends.completion_cache import Answers, Texts, complete_all
from fedlab.llm.language_model import Completion, LanguageModel, Prompt, Sampling, Usage
from fedlab.llm.synthesis.judge_answers import ELIGIBLE
from fedlab.llm.synthesis.parsing import NO_FORMAT, first_text, records_in
from fedlab.llm.synthesis.prompts import Prompts
from fedlab.llm.synthesis.text_filter import Text
from fedlab.randomness import rng_for

Demonstrations = Mapping[tuple[str, str], Sequence[str]]
"""Domain and label to texts of both, the best first."""
Emit = Callable[..., object]
LIST_ENDS = "\n\n"
JUDGING = Sampling(max_tokens=96, temperature=0.0, top_p=1.0)
"""How a judge answers: a list of numbers, and no chance in it."""


class Writer:
    """Few-shot completion.

    Args:
        llm: Language model.
        prompts: Templates with which domains and labels are asked for.
        shots: Demonstrations in a prompt, k.
        anchors: Demonstrations among them that are the prompts' own where others were selected, a.
        texts_per_prompt: Texts that a prompt is hoped to give: so many fewer prompts are read. A chat gives what its
            prompts ask for.
        max_tokens, temperature, top_p: Law of an answer, see `Sampling`; its tokens are those of all its texts.
        cache: Folder of the answers; None keeps them beside the data.

    Attributes:
        dropped: Reasons of answers without a text to how many.
    """

    def __init__(
        self,
        llm: LanguageModel,
        prompts: Prompts,
        shots: int = 4,
        anchors: int = 2,
        texts_per_prompt: int = 2,
        max_tokens: int = 48,
        temperature: float = 0.9,
        top_p: float = 0.95,
        cache: str | None = None,
    ):
        self.llm, self.prompts = llm, prompts
        self.shots = checks.integer("shots", shots, 1, remedy="a base model only continues what it sees")
        self.anchors = checks.integer("anchors", anchors, 0, shots, "no more than shots")
        self.texts_per_prompt = checks.integer("texts_per_prompt", texts_per_prompt, least=1)
        stop = prompts.stop if texts_per_prompt == 1 or prompts.chat else (LIST_ENDS,)
        self.sampling = Sampling(max_tokens, temperature, 0, top_p, tuple(stop))
        self._folder = None if cache is None else Path(cache)
        self._kept: Texts | None = None
        self._usage = Usage()
        self.dropped: Counter[str] = Counter()

    def write(
        self, wanted: Mapping[tuple[str, str], int], demonstrations: Demonstrations, seed: int, emit: Emit | None = None
    ) -> list[Text]:
        """Return texts; answers without one are counted in `dropped`.

        Args:
            wanted: Number of texts of each domain and label; answers may hold a few more or fewer.
            demonstrations: Texts that were selected; of a domain and label without any, the prompts' own are taken
                alone.
            seed: Seed of the demonstrations and of the texts.
            emit: Listener to how far it is.

        Raises:
            BadInput: A domain or label is unknown to the prompts, or the model does not answer.
        """
        prompts = self.prompts_of(wanted, demonstrations, seed)
        answers = zip(self._codes(wanted), self._answers(prompts, self.sampling, seed, emit), strict=True)
        return [Text(text, *code) for code, answer in answers for text in self._texts(answer)]

    def prompts_of(
        self, wanted: Mapping[tuple[str, str], int], demonstrations: Demonstrations, seed: int
    ) -> list[Prompt]:
        """Return what `write` asks."""
        rng = rng_for(seed, "demonstrations")
        return [self._prompt(*code, demonstrations.get(code, ()), rng) for code in self._codes(wanted)]

    def judge(self, texts: Sequence[Text]) -> Prompt:
        """Return the question which of some texts are eligible; see `Prompts.which`."""
        return self.prompts.which([(one.domain, one.label, one.text) for one in texts])

    def answer(self, prompts: Sequence[Prompt], emit: Emit | None = None) -> Answers:
        """Return what the model most probably answers to each question of a judge, by schema where it can.

        Raises:
            BadInput: The model does not answer, or has no chat.
        """
        by_schema = replace(JUDGING, schema=ELIGIBLE) if self.llm.follows_schema else JUDGING
        return self._answers(prompts, by_schema, 0, emit)

    def keep_in(self, folder: str | Path) -> None:
        """Keep answers in another folder from now on."""
        self._folder, self._kept = Path(folder), None

    def likelihood(self, prompts: Sequence[str], continuations: Sequence[str]) -> np.ndarray:
        """Return the log likelihood of each continuation, (n,)."""
        return self.llm.log_likelihood(prompts, continuations)[:, 0]

    def usage(self) -> dict[str, Any]:
        """Return what was asked and paid for."""
        return asdict(self._usage) | {"dropped": dict(self.dropped)}

    def _answers(self, prompts: Sequence[Prompt], sampling: Sampling, seed: int, emit: Emit | None) -> Answers:
        """Ask for what was not paid for yet."""
        if self._kept is None:
            self._kept = Texts.of(self.llm) if self._folder is None else Texts(self._folder)

        def progress(done: int, total: int) -> None:
            if emit is not None:
                emit("progress", done=done, total=total)

        answers = complete_all(self.llm, prompts, sampling, seed, self._kept, progress)
        self._usage += answers.usage
        return answers

    def _codes(self, wanted: Mapping[tuple[str, str], int]) -> list[tuple[str, str]]:
        return [code for code, number in wanted.items() for _ in range(-(-number // self.texts_per_prompt))]

    def _texts(self, answer: Completion) -> Iterator[str]:
        if self.prompts.chat:
            yield from records_in(answer, self.prompts, self.dropped)
            return
        before = self.prompts.record.partition("{text}")[0].strip()
        lines = answer.text.strip().splitlines()[: None if self.texts_per_prompt > 1 else 1] or [""]
        for index, line in enumerate(lines):
            if index and before and not line.startswith(before):
                self.dropped[NO_FORMAT] += 1  # the model has left the list: what follows is something else
                return
            finish = answer.finish if index == len(lines) - 1 else "stop"
            one = replace(answer, text=line.removeprefix(before).strip(), finish=finish)
            text = first_text(one, self.dropped)
            if text is not None:
                yield text

    def _prompt(self, domain: str, label: str, selected: Sequence[str], rng: np.random.Generator) -> Prompt:
        own = self.prompts.own(domain, label)
        if not (own or selected):
            raise BadInput(
                f"domain {domain!r} has no demonstration of {label!r}: write some under prompts.demonstrations"
            )
        anchors = min(self.anchors if selected else self.shots, len(own))
        others = min(self.shots - anchors, len(selected))
        shown = [own[row] for row in rng.permutation(len(own))[:anchors]]
        shown += [selected[row] for row in rng.permutation(len(selected))[:others]]
        return self.prompts.prompt(domain, label, [shown[row] for row in rng.permutation(len(shown))])
