"""What a client's generator gives away: secrets put among its texts, who was among them, phrases that came out again.

    exposure       log2 (R + 1) - log2 rank, of secrets that were put in and of others that never were
    membership     AUC of l_0(x) - l(x), texts that were learned against held-out ones of the same domain
    overlap        share of the n-grams of an upload that stand in a private text, beside held-out texts
    edits          from an upload to the private text nearest to it

The first client is audited, at every epsilon of `study.epsilon`: null adds no noise, and shows that the audit finds
what is there to be found. Where (epsilon, delta) holds, secrets that were put in once rank like those that never were.

Carlini et al., The Secret Sharer, 2019, https://arxiv.org/abs/1802.08232; the rest: see `fedlab.audit`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from clients.fdkt import FDKT
from experiments.config.compose import recompose
from experiments.runner.compare import build_world, describe
from experiments.studies.cells import Cells
from experiments.studies.fdkt import METHOD, at
from fedlab.audit.canaries import Canaries, exposures, insert
from fedlab.audit.overlap import nearest, overlap
from fedlab.audit.perplexity import membership_scores
from fedlab.audit.success import advantage_cap, distinguish
from fedlab.errors import BadInput
from fedlab.llm.tuning.private_generator import sample
from fedlab.privacy.dpsgd.private_gradient import generator_of
from fedlab.randomness import rng_for
from fedlab.tracking.run_directory import RunDirectory


def fdkt_audit(cfg: DictConfig, directory: RunDirectory) -> dict[str, Any]:
    """Return the results with one row for each epsilon."""
    study = cfg.study
    for name in ("canaries", "times", "alternatives", "ngram"):
        if study[name] < 1:
            raise BadInput(f"study.{name}={study[name]} must be at least 1")
    if not study.epsilon:
        raise BadInput("study.epsilon=[] audits nothing: say study.epsilon=[8,null]")
    everyone = build_world(cfg, directory)
    directory.event("method", method=METHOD, rounds=len(study.epsilon), clients=1)
    cells = Cells(cfg, directory)
    for index, epsilon in enumerate(study.epsilon):
        directory.tick("progress", method=METHOD, round=index + 1, done=index, total=len(study.epsilon))
        cell = recompose(directory.path, [at(epsilon)])
        learner: FDKT = instantiate(describe(cell, METHOD)["client"], num_classes=everyone.num_classes)
        if learner.generator is None or learner.base is None:
            raise BadInput(f"methods.{METHOD} has no generator to audit: choose one, as experiment=fdkt_generator does")
        figures = {name: round(value, 3) for name, value in audited(learner, everyone, cfg)}
        cells.add({"epsilon": epsilon, **figures})
    noised = [row["exposure"] - row["exposure of others"] for row in cells.rows if row["epsilon"] is not None]
    weights = {"rows": np.arange(len(cells.rows))}
    return cells.outcome("fdkt_audit", "FDKT", 1, weights, largest_exposure=max(noised, default=0.0))


def audited(learner: FDKT, everyone: Any, cfg: DictConfig) -> Iterator[tuple[str, float]]:
    """Yield what the audit of the first client finds, name and number."""
    study, dataset = cfg.study, everyone.federation.dataset
    rng = rng_for(cfg.seed, "audit")
    x, labels = everyone.client(0)
    private = learner.private(x, labels, dataset.train.take(everyone.federation.parts[0]), learner.of(cfg.seed, 0))
    (domain,) = {str(name) for name in learner.domains(private.split)}
    held_out = [t for t, d in zip(dataset.test.inputs, learner.domains(dataset.test), strict=True) if d == domain]
    codes = [f"{domain} | {label}" for label in learner.labels]
    behind = [codes[label] for label in private.labels]
    secrets = Canaries()
    drawn = secrets.draw(2 * study.canaries + study.alternatives, rng)
    put_in, never, others = np.split(np.array(drawn), [study.canaries, 2 * study.canaries])
    learned, texts = insert(behind, private.texts, put_in.tolist(), codes[0], study.times, rng)

    assert learner.generator is not None and learner.base is not None
    rule = learner.generator
    network, tokenizer = learner.base.module_and_tokenizer()
    tuned, _ = rule.fit(network, tokenizer, learned, texts, generator_of("seeded", cfg.seed))
    limits = {"max_tokens": rule.max_tokens, "min_words": learner.min_words}
    uploads = sample(tuned, tokenizer, codes, learner.samples_per_class, cfg.seed, **limits).texts

    room = rule.max_tokens
    for name, canaries in (("exposure", put_in), ("exposure of others", never)):
        bits = exposures(tuned, tokenizer, canaries.tolist(), others.tolist(), codes[0], room)
        yield name, float(bits.mean())
    yield "most", float(np.log2(len(others) + 1))
    yield "secrets uploaded", int((secrets.appearances(put_in.tolist(), uploads) > 0).sum())
    inside, outside = (
        membership_scores(tuned, tokenizer, [codes[0]] * len(texts), texts, network, room)
        for texts in (private.texts, held_out)
    )
    success = distinguish(inside, outside, rng).auc
    yield "membership AUC", success.value
    yield "at least", success.low
    if not rule.noiseless:
        yield "AUC allowed", (1 + advantage_cap(float(rule.epsilon or 0), rule.delta)) / 2
    yield "uploads", len(uploads)
    for name, texts in (("overlap", private.texts), ("overlap with held-out", held_out)):
        yield name, float(overlap(uploads, texts, study.ngram).mean()) if uploads else 0.0
    yield "fewest edits", int(nearest(uploads, private.texts).edits.min()) if uploads else 0
