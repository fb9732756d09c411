"""The settings that every experiment has, with their types: a mistyped value fails before anything runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import wraps
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from experiments.runner.old_names import moved, old_names
from experiments.runner.signatures import fill
from experiments.runner.type_checks import check_types
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
        minimum: But at least so many, where there are so many.
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
        seed: Of the split, the random features, the partition, the sampling of clients and local training.
        mode: 'exact' (bit-identical for every partition) or 'float64'.
        ridge: g of the closed-form head, or 'gcv' to choose it from the statistics.
        rounds: Rounds of the averaging methods.
        device: Where features and statistics are computed: cpu, cuda, cuda:1.
        tolerate: Share of a round's clients that may fail before the run stops.
        timeout: Seconds to wait for a round's replies; null waits for all.
        checkpoint: How often a run is kept, so that `fedlab run resume=DIR` can continue it.
        entropy: Where noise and keys come from: 'seeded' repeats them, 'os' is for real data.
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


def check(cfg: Any) -> None:
    """Refuse settings out of range before anything is loaded.

    Raises:
        BadInput: Names the first such setting, its range and what to give.
    """
    plain = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    for old, new in old_names(plain):
        raise BadInput(moved(old, new))
    for name, value, low, high, remedy in (
        ("seed", cfg.seed, 0, 2**32 - 1, "any such integer; the same seed gives the same bits"),
        ("rounds", cfg.rounds, 1, 10**9, "100 is the default"),
        ("cohort.minimum", cfg.cohort.minimum, 1, 10**9, "10 asks at least so many, where there are so many"),
    ):
        if not low <= value <= high:
            raise BadInput(f"{name}={value} lies outside {low}..{high}: {remedy}")
    if not 0 < cfg.cohort.fraction <= 1:
        raise BadInput(
            f"cohort.fraction={cfg.cohort.fraction} lies outside (0, 1]: 0.1 asks a tenth of the clients each round"
        )
    ridge = cfg.ridge
    number = isinstance(ridge, (int, float)) and not isinstance(ridge, bool) and 0 <= ridge < float("inf")
    if not (number or ridge == "gcv"):
        raise BadInput(f"ridge={ridge} is neither a number >= 0 nor gcv: 1.0 is the default")
    if not 0 <= cfg.tolerate < 1:
        raise BadInput(f"tolerate={cfg.tolerate} lies outside [0, 1): the share of a round's clients that may fail")
    if cfg.timeout is not None and not cfg.timeout > 0:
        raise BadInput(f"timeout={cfg.timeout} must be > 0 seconds, or null to wait for all")
    if cfg.checkpoint.every is not None and cfg.checkpoint.every < 1:
        raise BadInput(
            f"checkpoint.every={cfg.checkpoint.every} must be at least 1 round, or null to keep no checkpoint"
        )
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
        buffer = method.get("buffer", 0)
        if buffer is not None and (not isinstance(buffer, int) or isinstance(buffer, bool) or buffer < 0):
            raise BadInput(
                f"methods.{name}.buffer={buffer} must be a whole number of samples >= 0, or null for all of them"
            )
    check_types(plain)


def register() -> None:
    """Make the schema and the resolvers known to Hydra."""
    ConfigStore.instance().store("schema", Settings)

    def at_most_clients(wanted: int, *, _root_: Any) -> int:
        return wanted if _root_.clients is None else max(1, min(wanted, _root_.clients))

    def one_more_if(rounds: int, reason: Any) -> int:
        return rounds + bool(reason)

    def where(reason: Any, value: Any) -> Any:
        return value if reason else None

    def share_of(whole: float | None, share: float) -> float | None:
        return None if whole is None else share * whole

    compose_files = ConfigLoaderImpl._compose_config_from_defaults_list
    if not hasattr(compose_files, "__wrapped__"):
        # After the files and before the overrides, which may change any setting: Hydra has no hook there.
        @wraps(compose_files)
        def compose_and_fill(*arguments: Any, **named: Any) -> DictConfig:
            cfg = compose_files(*arguments, **named)
            fill(cfg)
            return cfg

        ConfigLoaderImpl._compose_config_from_defaults_list = compose_and_fill
    OmegaConf.register_new_resolver("share_of", share_of, replace=True)

    def settings(*, _root_: Any) -> str:
        from experiments.runner.documented import documented  # which reads this file's docstrings

        return documented(_root_).replace("$", "$$")  # for Hydra's template

    OmegaConf.register_new_resolver("settings", settings, replace=True)
    OmegaConf.register_new_resolver("where", where, replace=True)
    OmegaConf.register_new_resolver("plus", lambda *numbers: sum(numbers), replace=True)
    OmegaConf.register_new_resolver("at_most_clients", at_most_clients, replace=True)
    OmegaConf.register_new_resolver("one_more_if", one_more_if, replace=True)
