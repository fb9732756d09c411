"""The settings that every experiment has, with their types: a mistyped value fails before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import wraps
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from experiments.config.old_names import moved, old_names
from experiments.config.signatures import fill
from experiments.config.type_checks import check_types
from fedlab import checks
from fedlab.errors import BadInput


class Mode(Enum):
    """Number system of the statistics."""

    exact = "exact"
    float64 = "float64"


@dataclass
class Cohort:
    """Who is asked in a round of the averaging methods.

    Attributes:
        fraction: Share of the clients, in (0, 1].
        minimum: Number of clients at least, where there are so many.
    """

    fraction: float = MISSING
    minimum: int = MISSING


@dataclass
class Checkpoint:
    """How often a run is kept so that `resume=` can continue it.

    Attributes:
        every: Rounds from one checkpoint to the next; null keeps none.
    """

    every: int | None = 1


@dataclass
class Settings:
    """Top-level choices; each can be overridden on the command line.

    Attributes:
        clients: Number of clients; null where the partition knows it (natural ids).
        seed: Seed of the split, the random features, the partition, the sampling of clients and local training.
        mode: Number system of the statistics: 'exact' (bit-identical for every partition) or 'float64'.
        ridge: Ridge g of the closed-form head, or 'gcv' to choose it from the statistics.
        rounds: Rounds of the averaging methods.
        device: Device of features and statistics: cpu, cuda, cuda:1.
        tolerate: Share of a round's clients that may fail before the run stops.
        timeout: Seconds to wait for a round's replies; null waits for all.
        checkpoint: Interval at which a run is kept, so that `fedlab run resume=DIR` can continue it.
        entropy: Source of noise and keys: 'seeded' repeats them, 'os' is for real data.
    """

    name: str = MISSING
    task: str = MISSING
    clients: int | None = 1000
    seed: int = 0
    mode: Mode = Mode.exact
    ridge: Any = 1.0
    rounds: int = 100
    device: str = "cpu"
    tolerate: float = 0.0
    timeout: float | None = None
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    entropy: str = "seeded"
    source: Any = MISSING
    partition: Any = MISSING
    features: Any = MISSING
    stream: Any = None
    llm: Any = None
    prompts: Any = None
    small_model: Any = MISSING
    availability: Any = MISSING
    network: Any = MISSING
    engine: Any = MISSING
    faults: dict[str, Any] = field(default_factory=dict)
    methods: dict[str, Any] = field(default_factory=dict)
    analytic: Any = MISSING
    gradient: Any = MISSING
    privacy: Any = MISSING
    cohort: Cohort = field(default_factory=Cohort)
    study: Any = None


DOCUMENTED: dict[str, type] = {"": Settings, "checkpoint": Checkpoint, "cohort": Cohort}
"""Classes that document the keys which no `_target_` does."""


def check(cfg: Any) -> None:
    """Refuse settings out of range before anything is loaded.

    Raises:
        BadInput: Names the first such setting, its range and what to give.
    """
    plain = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    for old, new in old_names(plain):
        raise BadInput(moved(old, new))
    checks.integer("seed", cfg.seed, 0, 2**32 - 1, "any such integer; the same seed gives the same bits")
    checks.integer("rounds", cfg.rounds, 1, 10**9, "100 is the default")
    checks.integer("cohort.minimum", cfg.cohort.minimum, 1, 10**9, "10 asks at least so many, where there are so many")
    remedy = "0.1 asks a tenth of the clients each round"
    checks.number("cohort.fraction", cfg.cohort.fraction, above=0, most=1, remedy=remedy)
    if isinstance(cfg.ridge, str) and cfg.ridge != "gcv":
        raise BadInput(f"ridge={cfg.ridge} is neither a number >= 0 nor gcv: 1.0 is the default")
    if cfg.ridge != "gcv":
        checks.number("ridge", cfg.ridge, least=0, remedy="or gcv; 1.0 is the default")
    checks.number("tolerate", cfg.tolerate, least=0, below=1, remedy="the share of a round's clients that may fail")
    if cfg.timeout is not None:
        checks.number("timeout", cfg.timeout, above=0, remedy="seconds, or null to wait for all")
    if cfg.checkpoint.every is not None:
        checks.integer("checkpoint.every", cfg.checkpoint.every, 1, remedy="rounds, or null to keep no checkpoint")
    if not OmegaConf.is_dict(cfg.privacy):
        raise BadInput(f"privacy={cfg.privacy} is no promise: change its parts, e.g. privacy.epsilon=8")
    cap, epsilon = cfg.privacy.get("cap"), cfg.privacy.get("epsilon")
    if isinstance(cap, (int, float)) and isinstance(epsilon, (int, float)) and cap < epsilon:
        raise BadInput(
            f"privacy.cap={cap} lies below privacy.epsilon={epsilon}: not one release fits under it; lower epsilon, or "
            "raise the cap"
        )
    for name, fault in cfg.faults.items():
        if not (OmegaConf.is_dict(fault) and "_target_" in fault):
            raise BadInput(f"faults.{name}={fault} is no fault: choose them by name, e.g. faults=[dropout,corrupt]")
    for name, method in cfg.methods.items():
        if (buffer := method.get("buffer", 0)) is not None:
            checks.integer(f"methods.{name}.buffer", buffer, 0, remedy="samples, or null for all of them")
    check_types(plain)


def register() -> None:
    """Make the schema and the resolvers known to Hydra."""
    ConfigStore.instance().store("schema", Settings)
    compose_files = ConfigLoaderImpl._compose_config_from_defaults_list
    if not hasattr(compose_files, "__wrapped__"):
        # After the files and before the overrides, which may change any setting: Hydra has no hook there.
        @wraps(compose_files)
        def compose_and_fill(*arguments: Any, **named: Any) -> DictConfig:
            cfg = compose_files(*arguments, **named)
            fill(cfg)
            return cfg

        ConfigLoaderImpl._compose_config_from_defaults_list = compose_and_fill
    for name, resolver in RESOLVERS.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def _settings(*, _root_: Any) -> str:
    from experiments.config.documented import documented  # only --help needs it

    return documented(_root_, DOCUMENTED).replace("$", "$$")  # for Hydra's template


def _at_most_clients(wanted: int, *, _root_: Any) -> int:
    return wanted if _root_.clients is None else max(1, min(wanted, _root_.clients))


RESOLVERS: dict[str, Callable[..., Any]] = {
    "settings": _settings,
    "at_most_clients": _at_most_clients,
    "plus": lambda *numbers: sum(numbers),
    "one_more_if": lambda rounds, reason: rounds + bool(reason),
    "where": lambda reason, value: value if reason else None,
    "share_of": lambda whole, share: None if whole is None else share * whole,
}
