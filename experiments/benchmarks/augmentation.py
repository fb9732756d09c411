"""What the server's own work costs beside its language model: tokens a second of both, of the model's alone.

    python -m experiments.benchmarks.augmentation [--texts 10] [--repeats 3] [llm=gemma ...]

    model       the prompts of `experiment=fdkt`, completed by the model and nothing else
    pipeline    the same prompts built from demonstrations, answers parsed, kept on the disk, sifted, embedded, packed
                as clients are sent them

Both answer the same prompts with the same seeds, so that both write the same tokens; in turn, medians of the repeats.
The pipeline is to reach 80 % of the model's own rate.
"""

from __future__ import annotations

import tempfile
import time
from statistics import median

import numpy as np
from hydra.utils import instantiate
from rich.console import Console

from experiments.benchmarks.layout import columns, options, timed
from experiments.config.compose import compose
from experiments.runner.compare import describe
from fedlab.llm.backends.completion_cache import complete_all


def main() -> None:
    """Measure and print."""
    parser = options(__doc__, repeats=3)
    parser.add_argument("--texts", type=int, default=10, help="of each domain and label")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    cfg = compose(["experiment=fdkt", *args.overrides])
    strategy = instantiate(describe(cfg, "fdkt")["strategy"])
    writer = strategy.writer
    wanted = {(domain, label): args.texts for domain in writer.prompts.domains for label in strategy.labels}
    instantiate(cfg.features.backbone).extract(["the first call loads the weights"])
    prompts: list[str] = []
    model, pipeline, tokens = [], [], []
    for seed in range(args.repeats):
        with tempfile.TemporaryDirectory() as folder:
            server = instantiate(describe(cfg, "fdkt")["strategy"])
            cell = server.writer
            cell.llm = writer.llm  # loaded once
            cell.keep_in(folder)
            prompts = cell.prompts_of(wanted, {}, seed)
            answers, seconds = timed(complete_all, writer.llm, prompts, writer.sampling, seed)
            model.append(seconds)
            started = time.perf_counter()
            server.pool.add(cell.write(wanted, {}, seed), "augmented", seed)
            server.pool.model()
            pipeline.append(time.perf_counter() - started)
            tokens.append(sum(answer.tokens for answer in answers))
            assert cell.usage()["completion_tokens"] == tokens[-1], "both must write the same"
    table = columns(
        f"{len(prompts)} prompts, {int(np.sum(tokens)):,} tokens in all", "< | tokens a second | of the model's"
    )
    rates = [median(n / s for n, s in zip(tokens, seconds, strict=True)) for seconds in (model, pipeline)]
    share = median(a / b for a, b in zip(model, pipeline, strict=True))
    table.add_row("model", f"{rates[0]:.1f}", "")
    table.add_row("pipeline", f"{rates[1]:.1f}", f"{100 * share:.0f} %")
    Console().print(table)


if __name__ == "__main__":
    main()
