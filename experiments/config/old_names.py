"""What had another name before: keys of the config, modules and classes.

An override, or a config of one's own, that says an old name is told the new one. A run directory of before is read
in new names, and its checkpoints are written anew in them when it is resumed: nothing else knows of an old name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

KEYS = {
    r"attendance": "availability",
    r"methods\.[^.]+\.model": "client",
    r".+\.strategy\.winners": "keep_fraction",
    r".+\.strategy\.more": "augment_per_class",
    r".+\.strategy\.sieve": "text_filter",
    r".+\.writer\.each": "texts_per_prompt",
    r".+\.client\.written": "samples_per_class",
    r"(.+\.)?llm\.patience": "retry_for",
}
"""Old key, under the new names of what it is in, to the new name of its last part."""
ROOMS = {
    "fedlab.stats.arithmetic": "product fixed_point solve samples simplex memory",
    "fedlab.stats.serialization": "packing packed_size packed_total integers wire",
    "fedlab.data.streams": "stream=tasks blurry long_tail course=client_stream attendance=availability",
    "fedlab.privacy.mechanisms": "gaussian skellam renyi sensitivity votes=vote_histogram entropy=noise_source",
    "fedlab.privacy.ridge": "mechanisms=clip_and_noise guarantee plan projection",
    "fedlab.privacy.accounting": "promise=budget release composition accounting=privacy_loss accounts=per_client "
    "calibration journal ledger table",
    "fedlab.privacy.dpsgd": "dpsgd=private_gradient ghost per_sample",
    "fedlab.privacy.secagg": "secagg=server participant=client graph agreement=key_agreement masks shamir "
    "departure=removal",
    "fedlab.llm.backends": "huggingface local_model=transformers_model causal gguf llama_cpp packaged tiny endpoint "
    "patience=retry generation=completion_cache",
    "fedlab.llm.synthesis": "prompts parsing writer=few_shot filtering=text_filter verdicts=judge_answers "
    "pool=candidates texts=text_packing budget",
    "fedlab.llm.tuning": "objectives=losses adapters generator=private_generator recalled=generator_cache "
    "codes=control_codes sampling small_model fine_tuned classifier training",
    "fedlab.engine.messages": "records broadcast identity addition=partial_sums",
    "fedlab.engine.simulation": "grid=local_grid ray_grid simulated host worker parcel=worker schedule cluster "
    "cohort=batched_app faults meter deployed=meter allocator",
    "fedlab.engine.aggregation": "rounds replies averaging closed_form server_judged=server_evaluation",
    "fedlab.engine.persistence": "checkpoint state kept=statistics_store",
    "experiments.runner": "compare centralised sweep",
    "experiments.studies": "dummy=afl_dummy invariance=afl_invariance phases=acil_phases tradeoff=dp_tradeoff "
    "projections=dp_projections leakage departures=unlearning fdkt fdkt_audit",
}
"""Room to the modules that lay beside it before; old=new where the name has changed too."""
MODULES = {
    f"{room.rpartition('.')[0]}.{old}": f"{room}.{new or old}"
    for room, words in ROOMS.items()
    for old, _, new in (word.partition("=") for word in words.split())
} | {
    f"fedlab.stats{old}": f"fedlab.analytic{new}"
    for old, new in (
        *((f".{one}", f".{one}") for one in ("expansion", "dual_expansion", "dual_stream", "joint", "phases")),
        *((f".{one}", f".{one}") for one in ("rebalanced", "pseudo_features", "universe")),
        (".analytic", ".learner"),
    )
}
# Of the classes of strategies.app checkpoints name one.
MODULES["strategies.app"] = "fedlab.engine.aggregation.server_evaluation"
LEARNERS = "Analytic DualReLUTanh DualStream Expansion Identity RandomRBF RandomReLU SampledRBF Joint Filled Tempered"
"""Classes that `fedlab.stats` exported and `fedlab.analytic` does now."""
CLASSES = {
    "Attendance": "Availability",
    "Course": "ClientStream",
    "Departure": "Removal",
    "Examination": "StreamEvaluation",
    "Generator": "PrivateGenerator",
    "Judge": "ServerEvaluator",
    "Promise": "PrivacyBudget",
    "Sieve": "TextFilter",
    "departures": "unlearning",
}
SPLIT = {
    "fedlab.stats.per_class:OneClass": "fedlab.stats.one_class:OneClass",
    "fedlab.stats.per_class:ClassCounts": "fedlab.stats.class_counts:ClassCounts",
}
"""Classes that have a module of their own today, as a checkpoint names them."""
ATTRIBUTES = {"_addition": "_partial_sum", "_examination": "_evaluation"}
"""Of what a checkpoint remembers."""


def new_key(key: str) -> str:
    """Return the key of today: `attendance.late` is `availability.late`."""
    path: list[str] = []
    for part in key.split("."):
        here = ".".join([*path, part])
        path.append(next((new for old, new in KEYS.items() if re.fullmatch(old, here)), part))
    return ".".join(path)


def new_target(target: str) -> str:
    """Return where a class or function is today, `module.Name` or, as in a checkpoint, `module:Name`."""
    target = SPLIT.get(target, target)
    module, mark, name = re.fullmatch(r"(.*?)(?:([.:])(\w+))?", target).groups()  # pyright: ignore[reportOptionalMemberAccess]
    if mark is None:
        return target
    if module == "fedlab.stats" and name in LEARNERS.split():
        return f"fedlab.analytic{mark}{name}"
    if module in MODULES:
        return f"{MODULES[module]}{mark}{CLASSES.get(name, name)}"
    return target


def new_override(override: str) -> str:
    """Return an override in new names."""
    prefix, key, value = re.fullmatch(r"([+~]*)([^=@]*)(.*)", override, re.DOTALL).groups()  # pyright: ignore[reportOptionalMemberAccess]
    if key == "task" or key.endswith("_target_"):
        value = f"={new_target(value[1:])}"
    return f"{prefix}{new_key(key)}{value}"


def moved(old: str, new: str) -> str:
    """Return what to say of a key, or a setting, that has another name today."""
    words = ((was, now) for was, now in zip(re.split(r"[.=]", old), re.split(r"[.=]", new), strict=False) if was != now)
    was, now = (old.partition("=")[2], new.partition("=")[2]) if "=" in old else next(words)
    return f"{was} is now {now}: say {new}"


def translated(config: Any, path: str = "") -> Any:
    """Return a config, as plain dictionaries and lists, in new names."""
    if isinstance(config, list):
        if path.startswith("study.variants."):  # overrides; a base goes with its generator
            return [new_override(str(item)) for item in config if item != "methods.fdkt.base=null"]
        return [translated(item, path) for item in config]
    if not isinstance(config, dict):
        named = path == "task" or path.endswith("_target_")
        return new_target(config) if named and isinstance(config, str) else config
    keys = {key: new_key(f"{path}.{key}".lstrip(".")) for key in config}
    return {new.rpartition(".")[2]: translated(config[key], new) for key, new in keys.items()}


def old_names(config: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield (old, new) of the keys and targets of a config that have another name today, with their keys."""
    for key, value in config.items() if isinstance(config, dict) else ():
        here = f"{path}.{key}".lstrip(".")
        if new_key(here) != here:
            yield here, new_key(here)
        elif isinstance(value, str) and (new := new_override(f"{here}={value}")) != f"{here}={value}":
            yield f"{here}={value}", new
        yield from old_names(value, here)


def renamed_state(node: Any) -> Any:
    """Return the tree of a checkpoint, see `fedlab.engine.persistence.state`, in new names."""
    if isinstance(node, list):
        return [renamed_state(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: renamed_state(value) for key, value in node.items()}
    if "class" in node:
        node["class"] = new_target(node["class"])
    if "attributes" in node:
        node["attributes"] = {ATTRIBUTES.get(key, key): item for key, item in node["attributes"].items()}
    return node
