"""What a private step of a language model costs beside a plain one; needs neither Flower nor Ray.

    python -m experiments.benchmarks.dp_language [--texts 16] [--tokens 64] [--repeats 5] [--device cpu]

    plain     forward, backward, AdamW: the mean loss of the batch
    ghost     the same texts, each clipped by itself, and noise: `fedlab.privacy.dpsgd.ghost`
    hooks     the same by Opacus's hooks, which keep every text's gradient

Weights are random and nothing is downloaded: a step costs the same. On the CPU a tiny GPT-2 (4 layers of 128, 1,000
words); on a GPU GPT-2 small (12 of 768, 50,257 words) and a model in the shape of Gemma 3 270M (18 of 640, 262,144
words) too. Every figure is the median of the repeats, in milliseconds a text, to the end of the device's work;
steps of each kind take turns, so that a busy machine slows all. Memory is the most that a step held on the GPU.

Ghost is to stay below 1.5 times plain; `--ways plain ghost` leaves the others out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

from experiments.benchmarks.layout import columns, options
from fedlab.llm.tuning.adapters import Adapters
from fedlab.llm.tuning.losses import Example, Examples, causal_losses
from fedlab.privacy.dpsgd.private_gradient import DPSGD

WAYS = ("plain", "ghost", "hooks")
STEPS = 3
"""A repeat takes so many, for what is prepared once belongs to a run and not to a step."""


def main() -> None:
    """Measure and print."""
    parser = options(__doc__, texts=16, tokens=64, repeats=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--models", nargs="+", default=None, choices=list(MODELS))
    args = parser.parse_args()
    device = torch.device(args.device)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    table = columns(
        f"{where}, batches of {args.texts} texts of {args.tokens} tokens, ms a text (times plain)",
        f"<model | <trained | parameters | {' | '.join(args.ways)}",
    )
    for name in args.models or ["gpt2-tiny", *(["gpt2", "gemma3-270m"] if device.type == "cuda" else [])]:
        for kind in ("lora", "frozen_embeddings"):
            table.add_row(name, kind, *_row(name, kind, args, device))
    Console(width=150).print(table)


def _row(name: str, kind: str, args: Any, device: torch.device) -> Iterator[str]:
    """Yield how much is trained, and the cost of each way."""
    torch.manual_seed(0)
    model = MODELS[name]().to(device)
    words = model.config.vocab_size
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, words, size=(args.texts, args.tokens)).tolist()
    examples = Examples([Example(tuple(row[:4]), tuple(row[4:])) for row in tokens], "causal", device)
    prepared = Adapters(kind).prepare(model, 0)
    yield f"{sum(p.numel() for p in prepared.parameters() if p.requires_grad):,}"
    acts = {way: step_of(way, prepared, examples) for way in args.ways}
    seconds: dict[str, list[float]] = {way: [] for way in args.ways}
    held = dict.fromkeys(args.ways, 0.0)
    for act in acts.values():
        act()  # what is made on first use
    for _ in range(args.repeats):
        for way, act in acts.items():
            _settle(device)
            start = time.perf_counter()
            act()
            _settle(device)
            seconds[way].append((time.perf_counter() - start) / STEPS / args.texts)
            held[way] = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    plain = median(seconds[args.ways[0]])
    for way in args.ways:
        one = median(seconds[way])
        memory = f", {held[way]:.1f} GiB" if held[way] else ""
        yield f"{1e3 * one:.3g} ({one / plain:.2f}{memory})"


def step_of(way: str, model: nn.Module, examples: Examples) -> Callable[[], object]:
    """Return what takes `STEPS` steps over all examples."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.0)
    n = len(examples)
    if way == "plain":

        def plain() -> None:
            model.train()
            for _ in range(STEPS):
                optimizer.zero_grad()
                causal_losses(model, examples[list(range(n))]).mean().backward()
                optimizer.step()

        return plain
    rule = DPSGD(1.0, 1.0, 1.0, STEPS, float(n), physical_batch=n, clipping=way)
    generator = torch.Generator().manual_seed(0)
    return lambda: rule.train(model, examples, causal_losses, optimizer, generator, probe=False)


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


def _drawn(kind: str, **shape: Any) -> Callable[[], Any]:
    """Return what draws a model at random; dropout off, for it is the same on both sides."""

    def draw() -> Any:
        import transformers

        config = transformers.AutoConfig.for_model(kind, **shape)
        return transformers.AutoModelForCausalLM.from_config(config)

    return draw


_ENDS = {"bos_token_id": 0, "eos_token_id": 0}  # those of the family lie beyond so small a vocabulary
_WHOLE = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
MODELS: dict[str, Callable[[], Any]] = {
    "gpt2-tiny": _drawn("gpt2", n_layer=4, n_embd=128, n_head=4, vocab_size=1000, n_positions=256, **_ENDS, **_WHOLE),
    "gpt2": _drawn("gpt2", **_WHOLE),
    "gemma3-270m": _drawn(
        "gemma3_text",
        vocab_size=262_144,
        hidden_size=640,
        intermediate_size=2048,
        num_hidden_layers=18,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        sliding_window=512,
    ),
}


if __name__ == "__main__":
    main()
