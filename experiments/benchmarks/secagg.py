"""What a secure sum costs: bytes and seconds of a client in every step, at 10, 100 and 1000 clients.

    python -m experiments.benchmarks.secagg [--clients 10 100 1000] [--lost 0 0.1 0.3] [--features 512]

The protocol by itself, in one process, without messages: every client answers in turn. Each loss is spread over
the four steps. Every sum is compared with the plain one, by its digest; a removal of two clients too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from rich.console import Console

from experiments.benchmarks.layout import columns, options
from fedlab.privacy.secagg.client import Answer, Memory, Participant
from fedlab.privacy.secagg.graph import Terms
from fedlab.privacy.secagg.removal import Removal
from fedlab.privacy.secagg.server import STEPS, SecureSum
from fedlab.stats import FixedPoint, GramStats, GramSum, total_of
from fedlab.stats.serialization.integers import Layout, integers, statistics_of

P = ParamSpec("P")
T = TypeVar("T")
FIXED = FixedPoint()
SEED = 1
"""Of the graph."""


@dataclass
class Cost:
    """Of one step, over all clients that took part.

    Attributes:
        clients: How many answered.
        up, down: Bytes in all.
        seconds, server: Of a processor: of the clients in all, and of the server.
    """

    clients: int = 0
    up: int = 0
    down: int = 0
    seconds: float = 0.0
    server: float = 0.0


@dataclass
class Aggregation:
    """One secure sum over made-up clients.

    Attributes:
        costs: By step.
    """

    clients: int
    features: int
    classes: int
    samples: int
    costs: dict[str, Cost] = field(default_factory=lambda: {step: Cost() for step in STEPS})

    def __post_init__(self) -> None:
        self.terms = Terms(self.clients)
        self.leaving = (0, self.terms.graph(range(self.clients), SEED)[0][0])
        self.server = SecureSum(self.terms, b"session of bench", SEED, keep=self.leaving)
        self.memories: dict[int, Memory] = {}
        self.layout = Layout.of(self.held(0))

    def held(self, who: int) -> GramStats:
        """Return a client's statistics."""
        rng = np.random.default_rng([1, who])
        x = rng.uniform(-1, 1, (self.samples, self.features))
        y = np.eye(self.classes)[rng.integers(self.classes, size=self.samples)]
        return GramStats.from_batch(torch.from_numpy(x), torch.from_numpy(y), FIXED)

    def run(self, lost: float) -> tuple[GramStats, GramStats]:
        """Return the secure sum and the plain one over the same clients; a share is lost on the way."""
        rng = np.random.default_rng(0)
        gone = int(lost * self.clients)
        plain = GramSum()
        server = self.server
        asks = {"shares": server.ask_shares, "upload": server.ask_upload}
        asks["reveal"] = lambda: dict.fromkeys(server.uploaded, server.ask_reveal())
        takes = {"keys": server.take_keys, "shares": server.take_shares}
        takes |= {"upload": server.take_upload, "reveal": server.take_reveal}
        questions: dict[int, Answer] = {who: {} for who in range(self.clients)}
        for number, step in enumerate(STEPS[:4]):
            if number:
                questions = self._server(step, asks[step])
            there = rng.permutation(list(questions)).tolist()
            for who in sorted(there[: len(there) - gone // 4 - (number < gone % 4)]):
                stats = self.held(who) if step == "upload" else None
                answer = self._client(step, who, questions[who], stats)
                self._server(step, takes[step], who, answer)
                if stats is not None:
                    plain.add(stats)
        vector = self._server("reveal", server.result)
        secure = statistics_of(vector, self.layout, len(server.uploaded))
        assert isinstance(secure, GramStats)
        return secure, plain.result()

    def leave(self) -> bool:
        """Let two neighbours leave; return whether what is taken out is exactly what they held."""
        removal = Removal.of(self.server, self.leaving)
        for who in removal.asked(self.server):
            answer = self._client("leave", who, removal.question(self.server), None)
            self._server("leave", removal.take, self.server, who, answer)
        vector = self._server("leave", removal.result, self.server)
        return statistics_of(vector, self.layout, 2).sha256 == total_of(map(self.held, self.leaving)).sha256

    def _client(self, step: str, who: int, question: Answer, stats: GramStats | None) -> Answer:
        one, memory, session = Participant(who, self.terms), self.memories.get(who, {}), self.server.session
        vector = None if stats is None else integers(stats, self.clients)
        started = time.process_time()
        if step == "keys":
            answer, memory = one.keys(session, memory, lambda: np.random.default_rng([2, who]).bytes(32))
        elif vector is not None:
            answer, memory = one.upload(question, vector, session, memory)
        else:
            method = {"shares": one.shares, "reveal": one.reveal, "leave": one.part}[step]
            answer, memory = method(question, session, memory)
        cost = self.costs[step]
        cost.seconds += time.process_time() - started
        cost.clients += 1
        cost.up += _bytes(answer)
        cost.down += _bytes(question) if step != "keys" else len(session)
        self.memories[who] = memory
        return answer

    def _server(self, step: str, work: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        started = time.process_time()
        result = work(*args, **options)
        self.costs[step].server += time.process_time() - started
        return result


def main() -> None:
    """Run them all and print the tables."""
    parser = options(__doc__, features=512, classes=10, samples=20)
    parser.add_argument("--clients", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--lost", type=float, nargs="+", default=[0.0, 0.1, 0.3])
    args = parser.parse_args()
    torch.set_num_threads(1)
    for clients in args.clients:
        for lost in args.lost:
            one = Aggregation(clients, args.features, args.classes, args.samples)
            started = time.process_time()
            secure, plain = one.run(lost)
            seconds = time.process_time() - started
            if secure.sha256 != plain.sha256:
                raise SystemExit(f"{clients} clients, {lost:.0%} lost: the sums differ")
            left = one.leave() if lost == 0 else None
            show(one, lost, seconds, plain.sha256, left)


def show(one: Aggregation, lost: float, seconds: float, sha256: str, left: bool | None) -> None:
    """Print what a sum cost."""
    terms, in_sum = one.terms, len(one.server.uploaded)
    title = f"{one.clients} clients, {lost:.0%} lost: {terms.degree} neighbours, {terms.threshold} shares give a secret"
    table = columns(title, "<step | clients | up | down | client, CPU s | server, CPU s")
    for step, cost in one.costs.items():
        if k := cost.clients:
            cells = [f"{cost.up / k:,.0f} B", f"{cost.down / k:,.0f} B", f"{cost.seconds / k:.4f}"]
            table.add_row(step, str(k), *cells, f"{cost.server:.3f}")
    console = Console()
    console.print(table)
    removed = "" if left is None else f"; two leave: their part is {'theirs to the bit' if left else 'WRONG'}"
    console.print(
        f"{in_sum} in the sum, plain sum = secure sum ({sha256[:12]}), {one.layout.length:,} integers, "
        f"{seconds:.1f} CPU s in all{removed}"
    )


def _bytes(arrays: Answer) -> int:
    return sum(array.nbytes for array in arrays.values())


if __name__ == "__main__":
    main()
