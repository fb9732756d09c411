"""FDKT's server: a large language model writes texts like those that clients hold, guided by what they say privately.

    hello                    every client names its domain
    synthesise  (optional)   clients write texts by generators of their own; what passes the filters are demonstrations
    vote  x V                the model writes candidates from demonstrations, clients vote, the winners demonstrate next
    teach                    all that was won, in all domains, goes to every client with its embeddings and labels

Everything after the noise of clients is post-processing: writing, filtering, choosing and sending cost no epsilon.
What others' domains say of a label helps too, so everyone is taught with the texts of all. A client is charged in
the ledger before it is asked, whether or not it answers.

Li et al., FDKT, 2024, https://arxiv.org/abs/2405.14212; Xie et al., Aug-PE, ICML 2024, https://arxiv.org/abs/2403.01749.
V rounds of votes; (m, d) embeddings of m texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord

from fedlab import checks
from fedlab.engine.aggregation.private import Private
from fedlab.engine.aggregation.protocol import Answer, Arrays, Protocol, Round, Step
from fedlab.engine.messages.records import to_record
from fedlab.engine.simulation.meter import MeteredGrid
from fedlab.errors import BadInput, unknown
from fedlab.llm.synthesis.budget import Budget
from fedlab.llm.synthesis.candidates import CandidatePool
from fedlab.llm.synthesis.few_shot import Writer
from fedlab.llm.synthesis.text_filter import Text, TextFilter, counted
from fedlab.llm.synthesis.text_packing import pack_texts, unpack_texts
from fedlab.privacy.accounting.budget import PrivacyBudget


class FDKT(Private, Protocol):
    """The server; the model it ends with is texts: `text`, `ends`, `labels` and `embedded`.

    Args:
        writer: Language model with its prompts.
        embedder: Backbone of `fedlab.features` that clients embed with.
        labels: Names of the classes.
        budget: Budget of what clients release; they have the same.
        text_filter: Filters of what was written.
        candidates: Number of texts that are asked for, of each domain and label, in each round of votes.
        keep_fraction: Share of the candidates that demonstrates next and is sent in the end.
        augment_per_class: Number of texts that are asked for after the last votes, of each domain and label, from its
            winners.
        seed, entropy: Seed of the run, and source of the clients' noise, as `Private` has them.

    Raises:
        BadInput: A setting is out of range.
    """

    one_round = True

    def __init__(
        self,
        writer: Writer,
        embedder: Any,
        labels: Sequence[str],
        budget: Budget,
        text_filter: TextFilter | None = None,
        candidates: int = 40,
        keep_fraction: float = 0.75,
        augment_per_class: int = 0,
        seed: int = 0,
        entropy: str = "seeded",
    ):
        super().__init__(seed, entropy)
        self.candidates = checks.integer("candidates", candidates, least=1)
        self.augment_per_class = checks.integer("augment_per_class", augment_per_class, least=0)
        self.keep_fraction = checks.number("keep_fraction", keep_fraction, above=0, most=1)
        self.writer, self.budget, self.labels = writer, budget, tuple(labels)
        self.pool = CandidatePool(text_filter or TextFilter(), writer, embedder, labels)
        if self.pool.text_filter.judge == "chat":
            writer.prompts.check_judge()
        self.domains: dict[int, str] = {}
        self.counts: dict[str, np.ndarray] = {}
        self.notes: list[str] = []

    @property
    def privacy(self) -> PrivacyBudget | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The terms of its ledger; None without noise."""
        return self.budget.promise

    @property
    def steps(self) -> Sequence[Step]:
        """What each round is."""
        texts: list[Text] = []
        synthesise = Step(
            "synthesise",
            ask=self._codes,
            charge=self._charge,
            check=self._texts,
            take_in=lambda node, answer: texts.extend(answer),
            close=lambda number: self.pool.add(texts, "generators", self.seed),
        )
        vote = Step(
            "vote",
            ask=self._candidates,
            charge=self._charge,
            check=self._votes,
            take_in=self._add,
            close=lambda number: self.pool.select_top(self.places, f"elected {number}"),
        )
        return [
            Step("hello", charge=self._charge, check=self._domain, take_in=self._count, close=self._check_known),
            *([synthesise] if self.budget.generator is not None else []),
            *[vote] * self.budget.votes,
            Step("teach", ask=self._lesson),
        ]

    def settings(self, step: Step, now: Round) -> Mapping[str, Any]:
        """Return what clients need to know of a step, of the run and of the noise that is reckoned with."""
        of_run = {"run-seed": self.seed, "noise": self.budget.terms}
        return {"step": step.name, "server-round": now.number, **of_run}

    def model(self) -> ArrayRecord:
        """Return the texts so far."""
        return to_record(self.pool.model())

    # -- hello: every client names its domain, and how many texts of which label it has where the budget says so ------

    def _domain(self, node: int, answer: Answer) -> tuple[str, np.ndarray]:
        (domain,), known = unpack_texts(answer), self.writer.prompts.domains
        if domain not in known:
            raise unknown("domain", domain, known)
        counts = answer["counts"] if self.budget.labels else np.zeros(len(self.labels))
        if counts.shape != (len(self.labels),) or not np.isfinite(counts).all():
            raise BadInput(f"counts have shape {counts.shape}, expected ({len(self.labels)},) finite numbers")
        return domain, counts

    def _count(self, node: int, answer: tuple[str, np.ndarray]) -> None:
        self.domains[node], counts = answer
        self.counts[answer[0]] = self.counts.get(answer[0], 0.0) + counts

    def _check_known(self, number: int) -> None:
        if not self.domains:
            raise BadInput("no client named a domain that the prompts know: nothing can be written for anyone")

    # -- synthesise: clients write texts by generators of their own; what passes the filters are demonstrations -------

    def _codes(self, now: Round) -> Mapping[int, Arrays]:
        codes = self.writer.prompts.codes
        return {node: pack_texts(codes(domain, self.labels)) for node, domain in self._known()}

    def _texts(self, node: int, answer: Answer) -> list[Text]:
        texts, labels, domain = unpack_texts(answer), answer["labels"].tolist(), self.domains[node]
        if len(labels) != len(texts) or any(not 0 <= label < len(self.labels) for label in labels):
            raise BadInput(
                f"{len(texts)} texts with the labels {labels[:5]}: expected for each one of {len(self.labels)}"
            )
        return [Text(text, domain, self.labels[y]) for text, y in zip(texts, labels, strict=True)]

    # -- vote: the model writes candidates, clients vote, and the winners demonstrate next ----------------------------

    def _candidates(self, now: Round) -> Mapping[int, Arrays]:
        """Return the candidates of each client's domain; where there are none nothing is asked, and nothing spent."""
        self._write(self.candidates, f"candidates {now.number}", now)
        for domain in sorted({*self.domains.values()} - {one.domain for one in self.pool.texts}):
            self.notes.append(f"round {now.number}: no candidate of {domain} passed the filters, so nobody voted")
        rows = {node: self.pool.rows(domain) for node, domain in self._known()}
        return {node: {"embedded": self.pool.embedded[own]} for node, own in rows.items() if len(own)}

    def _votes(self, node: int, answer: Answer) -> np.ndarray:
        rows, votes = self.pool.rows(self.domains[node]), answer["votes"]
        if votes.shape != rows.shape or not np.isfinite(votes).all():
            raise BadInput(f"votes have shape {votes.shape}, expected {rows.shape} finite numbers")
        return votes

    def _add(self, node: int, votes: np.ndarray) -> None:
        self.pool.votes[self.pool.rows(self.domains[node])] += votes

    def places(self, domain: str, label: str, candidates: int) -> int:
        """Return how many candidates of a label stay: a share of them, more of a label that clients have more of."""
        places = self.keep_fraction * candidates
        if self.budget.labels:
            counts = np.maximum(self.counts[domain], 1.0)
            places *= len(self.labels) * counts[self.labels.index(label)] / counts.sum()
        return min(candidates, max(1, round(places)))

    # -- teach: all that was won, and some more like it, goes to every client, which answers nothing ------------------

    def _lesson(self, now: Round) -> Mapping[int, Arrays]:
        if self.augment_per_class or not len(self.pool):
            self._write(self.augment_per_class or self.candidates, "augmented", now)
        return dict.fromkeys((node for node, _ in self._known()), self.pool.model())

    # -- all steps ----------------------------------------------------------------------------------------------------

    def _known(self) -> list[tuple[int, str]]:
        """Return the nodes that have named their domain, rising, and which."""
        return sorted(self.domains.items())

    def _charge(self, now: Round, nodes: Sequence[int]) -> None:
        self.charge_clients(self.step(now.number).name, now.number, self.charged(now.grid, nodes))

    def charge_clients(self, step: str, number: int, clients: tuple[int, ...]) -> None:
        """Enter what a step releases about these clients."""
        if clients:
            texts = repr([one.text for one in self.pool.texts])
            draw = self.draw_id("fdkt", number, clients, self.budget.terms, texts)
            if release := self.budget.release(step, draw, clients, number):
                self.charge(release)

    def _write(self, number: int, stage: str, now: Round) -> None:
        """Add so many texts of each domain and label to the candidates; those that won before stand again.

        So a round can only improve on them.
        """
        domains = sorted({*self.domains.values()})
        wanted = {(domain, label): number for domain in domains for label in self.labels}
        seed, emit = self.seed + now.number, now.grid.emit if isinstance(now.grid, MeteredGrid) else None
        self.pool.add(self.writer.write(wanted, self.pool.by_code(), seed, emit), stage, seed)

    # -- what is kept, and told ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {
            "domains": {str(node): domain for node, domain in self.domains.items()},
            "counts": self.counts,
            "notes": self.notes,
            **self.pool.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` once returned."""
        self.domains = {int(node): domain for node, domain in state["domains"].items()}
        self.counts = dict(state["counts"])
        self.notes = list(state["notes"])
        self.pool.load_state_dict(state)

    def report(self) -> dict[str, Any]:
        """Return what was written, dropped and spent, and what a reader must know."""
        text_filter = self.pool.text_filter
        dropped, unread = self.writer.dropped + text_filter.dropped, Counter(text_filter.judged)
        questions = unread.pop("questions", 0)
        judge = f"judge: of {questions} answers {counted(unread)}" if +unread else None
        noiseless = "no noise was added: the texts promise nothing about those of the clients"
        notes = [noiseless] if self.budget.noiseless else self.privacy_notes()
        more = (f"dropped: {counted(dropped)}", judge, *self.notes)
        return {
            "texts": len(self.pool),
            "dropped": dict(dropped),
            "judge": dict(text_filter.judged),
            "stages": self.pool.stages,
            "usage": self.writer.usage(),
            "votes_noise_multiplier": self.budget.votes_multiplier,
            "notes": [*notes, *(line for line in more if line)],
        }
