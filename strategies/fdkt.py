"""FDKT's server: a large language model writes texts like those that clients hold, guided by what they say privately.

    hello                    every client names its domain
    synthesise  (optional)   clients write texts by generators of their own; what passes the sieve are demonstrations
    vote  x V                the model writes candidates from demonstrations, clients vote, the winners demonstrate next
    teach                    all that was won, in all domains, goes to every client with its embeddings and labels

Everything after the noise of clients is post-processing: writing, sifting, choosing and sending cost no epsilon.
What others' domains say of a label helps too, so everyone is taught with the texts of all. A client is charged in
the ledger before it is asked, whether or not it answers.

Li et al., FDKT, 2024, https://arxiv.org/abs/2405.14212; Xie et al., Aug-PE, ICML 2024, https://arxiv.org/abs/2403.01749.
V rounds of votes; (m, d) embeddings of m texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedlab.engine.aggregation.replies import refuse
from fedlab.engine.aggregation.server_evaluation import ServerJudged
from fedlab.engine.messages.records import from_record, records_of, to_record
from fedlab.engine.simulation.host import partition_of
from fedlab.errors import BadInput, unknown
from fedlab.llm.synthesis.budget import Budget
from fedlab.llm.synthesis.candidates import CandidatePool
from fedlab.llm.synthesis.few_shot import Writer
from fedlab.llm.synthesis.text_filter import Text, TextFilter, counted
from fedlab.llm.synthesis.text_packing import pack_texts, unpack_texts
from fedlab.privacy.accounting.budget import PrivacyBudget
from fedlab.privacy.accounting.ledger import Ledger, required
from fedlab.privacy.accounting.release import id_of
from fedlab.privacy.mechanisms.noise_source import check_entropy, check_place, seeded_note


class FDKT(ServerJudged, Strategy):
    """Flower's strategy; the model it ends with is texts: `text`, `ends`, `labels` and `embedded`.

    Parameters
    ----------
    writer
        The language model with its prompts.
    embedder
        What clients embed with: a backbone of `fedlab.features`.
    labels
        What the classes are called.
    budget
        What clients release; they have the same.
    text_filter
        Filters of what was written.
    candidates
        Texts that are asked for, of each domain and label, in each round of votes.
    keep_fraction
        Share of the candidates that demonstrates next and is sent in the end.
    augment_per_class
        Texts that are asked for after the last votes, of each domain and label, from its winners.
    seed
        Of the run.
    entropy
        Of the clients' noise.

    Attributes
    ----------
    ledger
        Where releases are entered; set by whoever runs the strategy.

    Raises
    ------
    BadInput
        A setting is out of range.
    """

    streaming = True
    replies_are_models = False
    partial_sum = None
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
        if candidates < 1 or augment_per_class < 0:
            raise BadInput(
                f"candidates={candidates} must be at least 1, augment_per_class={augment_per_class} at least 0"
            )
        if not 0 < keep_fraction <= 1:
            raise BadInput(
                f"keep_fraction={keep_fraction} must lie in (0, 1]: the share of the candidates that is kept"
            )
        self.writer, self.budget = writer, budget
        self.labels = tuple(labels)
        self.pool = CandidatePool(text_filter or TextFilter(), writer, embedder, labels)
        if self.pool.text_filter.judge == "chat":
            writer.prompts.check_judge()
        self.candidates, self.keep_fraction, self.augment_per_class = (
            candidates,
            keep_fraction,
            augment_per_class,
        )
        self.seed, self.entropy = seed, check_entropy(entropy)
        self.ledger: Ledger | None = None
        self.domains: dict[int, str] = {}
        self.counts: dict[str, np.ndarray] = {}
        self.notes: list[str] = []

    @property
    def privacy(self) -> PrivacyBudget | None:
        """The terms of its ledger; None without noise."""
        return self.budget.promise

    @property
    def steps(self) -> list[str]:
        """What each round is."""
        synthesise = ["synthesise"] if self.budget.generator is not None else []
        return ["hello", *synthesise, *["vote"] * self.budget.votes, "teach"]

    @property
    def rounds_per_step(self) -> int:
        """How many rounds it takes."""
        return len(self.steps)

    # -- Flower's rounds --------------------------------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Write what is to be voted on, charge the clients, and ask them.

        Raises
        ------
        BadInput
            A budget is spent, nobody keeps a ledger, or the language model does not answer.
        """
        step = self.steps[server_round - 1]
        simulated = getattr(grid, "simulated", True)
        check_place(self.entropy, simulated)
        nodes = sorted(grid.get_node_ids()) if step == "hello" else sorted(self.domains)
        if step == "vote":
            self._write(
                self.candidates, f"candidates {server_round}", server_round, getattr(grid, "emit", None)
            )
            # Where nothing was written there is nothing to ask, and nothing is spent.
            nodes = [node for node in nodes if len(self._rows(node))]
            for domain in sorted({*self.domains.values()} - {one.domain for one in self.pool.texts}):
                self.notes.append(
                    f"round {server_round}: no candidate of {domain} passed the filters, so nobody voted"
                )
        if step == "teach" and (self.augment_per_class or not len(self.pool)):
            self._write(
                self.augment_per_class or self.candidates,
                "augmented",
                server_round,
                getattr(grid, "emit", None),
            )
        self._charge(step, server_round, nodes, simulated)
        told = ConfigRecord(
            {
                **config,
                "step": step,
                "server-round": server_round,
                "run-seed": self.seed,
                "noise": self.budget.told,
            }
        )
        return [
            Message(
                RecordDict({"arrays": to_record(self._for(node, step)), "config": told}),
                node,
                MessageType.TRAIN,
            )
            for node in nodes
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take in what clients said; a reply that is none is refused by name, as a failure of its client."""
        step = self.steps[server_round - 1]
        said: dict[int, Any] = {}
        for reply in replies:
            if reply.has_error():
                continue
            node = reply.metadata.src_node_id
            try:
                arrays = from_record(records_of(reply.content, ArrayRecord)["arrays"])
                said[node] = self._checked(step, node, arrays)
            except (BadInput, KeyError) as error:
                why = error if isinstance(error, BadInput) else BadInput(f"no {error} in the reply")
                refuse(replies, reply, why)
        for node in sorted(said):  # who was faster must not show in the sums
            self._take_in(step, node, said[node])
        if step == "hello" and not self.domains:
            raise BadInput(
                "no client named a domain that the prompts know: nothing can be written for anyone"
            )
        if step == "synthesise":
            self.pool.add([one for node in sorted(said) for one in said[node]], "generators", self.seed)
        if step == "vote":
            self.pool.select_top(self._places, f"elected {server_round}")
        return to_record(self.pool.model()), None

    # -- what clients say -------------------------------------------------------------------------------------------

    def _checked(self, step: str, node: int, arrays: Mapping[str, np.ndarray]) -> Any:
        """Return what a client said, or refuse it."""
        if step == "hello":
            (domain,) = unpack_texts(arrays)
            if domain not in self.writer.prompts.domains:
                raise unknown("domain", domain, self.writer.prompts.domains)
            counts = arrays["counts"] if self.budget.labels else np.zeros(len(self.labels))
            if counts.shape != (len(self.labels),) or not np.isfinite(counts).all():
                raise BadInput(
                    f"counts have shape {counts.shape}, expected ({len(self.labels)},) finite numbers"
                )
            return domain, counts
        if step == "synthesise":
            texts, labels = unpack_texts(arrays), arrays["labels"].tolist()
            if len(labels) != len(texts) or any(not 0 <= label < len(self.labels) for label in labels):
                raise BadInput(
                    f"{len(texts)} texts with the labels {labels[:5]}: expected for each one of {len(self.labels)}"
                )
            domain = self.domains[node]
            return [Text(text, domain, self.labels[y]) for text, y in zip(texts, labels, strict=True)]
        if step == "vote":
            rows, cast = self._rows(node), arrays["votes"]
            if cast.shape != rows.shape or not np.isfinite(cast).all():
                raise BadInput(f"votes have shape {cast.shape}, expected {rows.shape} finite numbers")
            return cast
        return None

    def _take_in(self, step: str, node: int, said: Any) -> None:
        if step == "hello":
            self.domains[node], counts = said
            self.counts[said[0]] = self.counts.get(said[0], 0.0) + counts
        elif step == "vote":
            self.pool.votes[self._rows(node)] += said

    def _rows(self, node: int) -> np.ndarray:
        """Return which candidates are of a node's domain."""
        return self.pool.rows(self.domains[node])

    # -- what the server does with it --------------------------------------------------------------------------------

    def _places(self, domain: str, label: str, candidates: int) -> int:
        """Return how many candidates of a label stay: a share of them, more of a label that clients have more of."""
        places = self.keep_fraction * candidates
        if self.budget.labels:
            counts = np.maximum(self.counts[domain], 1.0)
            places *= len(self.labels) * counts[self.labels.index(label)] / counts.sum()
        return min(candidates, max(1, round(places)))

    def _write(self, number: int, stage: str, server_round: int, emit: Any) -> None:
        """Add so many texts of each domain and label to the pool; those that won before stand again.

        So a round can only improve on them.
        """
        known = sorted(set(self.domains.values()))
        wanted = {(domain, label): number for domain in known for label in self.labels}
        seed = self.seed + server_round
        self.pool.add(self.writer.write(wanted, self.pool.by_code(), seed, emit), stage, seed)

    # -- what goes out -----------------------------------------------------------------------------------------------

    def _for(self, node: int, step: str) -> dict[str, np.ndarray]:
        if step == "hello":
            return {}
        if step == "synthesise":
            return pack_texts(self.writer.prompts.codes(self.domains[node], self.labels))
        if step == "vote":
            return {"embedded": self.pool.embedded[self._rows(node)]}
        return self.pool.model()

    def _charge(self, step: str, server_round: int, nodes: Sequence[int], simulated: bool) -> None:
        asked = tuple(sorted(partition_of(node) if simulated else node for node in nodes))
        if not asked:
            return
        sent = repr([one.text for one in self.pool.texts])
        draw = id_of(self.entropy, "fdkt", self.seed, server_round, asked, self.budget.told, sent)
        release = self.budget.release(step, draw, asked, server_round)
        if release is not None:
            required(self.ledger).charge(release)

    # -- what is kept, and told ----------------------------------------------------------------------------------------

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
        note = (
            seeded_note(self.entropy)
            if not self.budget.noiseless
            else ("no noise was added: the texts promise nothing about those of the clients")
        )
        text_filter = self.pool.text_filter
        dropped, asked = self.writer.dropped + text_filter.dropped, Counter(text_filter.asked)
        questions = asked.pop("questions", 0)
        unread = f"judge: of {questions} answers {counted(asked)}" if +asked else None
        return {
            "texts": len(self.pool),
            "dropped": dict(dropped),
            "judge": dict(text_filter.asked),
            "stages": self.pool.stages,
            "usage": self.writer.usage(),
            "votes_noise_multiplier": self.budget.votes_multiplier,
            "notes": [said for said in (note, f"dropped: {counted(dropped)}", unread, *self.notes) if said],
        }
