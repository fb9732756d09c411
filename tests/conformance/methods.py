"""The methods that must pass the common suite: one row each, the name of its file in conf/methods."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """A method and what its run on the digits takes.

    Attributes:
        name: Of the file in conf/methods.
        overrides: What it needs beside the suite's own settings.
        learns: Accuracy on the digits that a few rounds over twelve clients must reach; chance is 0.1.
    """

    name: str
    overrides: tuple[str, ...] = ()
    learns: float = 0.6


PRIVATE = ("privacy.epsilon=100",)
"""At epsilon 1 twelve clients' models are noise alone, which is what is promised."""
EVERYONE = ("cohort.fraction=1.0",)

METHODS = [
    Method("acil"),
    Method("aefocl"),
    Method("afl"),
    Method("air"),
    Method("air_two_rounds"),
    Method("bulyan", EVERYONE, learns=0.4),
    Method("discriminant"),
    Method("dp_afl", PRIVATE, learns=0.4),
    Method("dp_fedavg", (*PRIVATE, *EVERYONE), learns=0.0),
    Method("dp_secagg_afl", (*PRIVATE, "privacy.dropout=0.5"), learns=0.2),
    Method("dp_sgd", (*PRIVATE, "methods.dp_sgd.rounds=3"), learns=0.2),
    Method("dsal"),
    Method("fedadagrad", learns=0.4),
    Method("fedadam", learns=0.4),
    Method("fedavg"),
    Method("fedavgm"),
    Method("fedmedian", learns=0.2),
    Method("fedprox"),
    Method("fedtrimmedavg", learns=0.4),
    Method("fedyogi", learns=0.4),
    Method("finetune"),
    Method("gacl"),
    Method("gkeal", ("features=random_rbf", "features.expansion.width=64")),
    Method("joint"),
    Method("krum", learns=0.2),
    Method("multikrum", learns=0.4),
    Method("qfedavg", learns=0.2),
    Method("replay"),
    Method("secagg_afl", ("methods.secagg_afl.strategy.dropout=0.5",)),
]

ELSEWHERE = {
    "centralised": "it has no federation: tests/conformance/test_one_head.py",
    "fdkt": "it reads texts: tests/strategies/test_fdkt.py",
}
"""Methods whose common tests are others, and where."""
