"""Texts that were paid for are never asked for again.

key = sha256(model fingerprint, prompt, sampling, seed)          seed of a text = sha256(seed, prompt, which time)

Every completion is appended to a file as it arrives, in one write, under a lock. A process that is killed
leaves at most a partial last line, which the next one to write cuts off; a run started again asks for what is
missing and no more. Only the key and the text are kept: no prompt is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Self

from fedlab import checks
from fedlab.cache_folder import cache_folder
from fedlab.errors import BadInput
from fedlab.llm.language_model import Completion, LanguageModel, Progress, Prompt, Sampling, Usage
from fedlab.tracking.append_log import AppendLog

_LOG = logging.getLogger("fedlab")


class Texts:
    """Completions by key, in memory and in a file to which only is appended.

    Several processes may share the file; each sees what was there when it opened it and what it adds itself.

    Args:
        folder: Folder of the file `texts.jsonl`; both are made when the first completion is put.

    Raises:
        BadInput: The file cannot be read.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.path = Path(folder).expanduser() / "texts.jsonl"
        self._known: dict[str, Completion] = {}
        self.damaged = 0
        self._read()

    @classmethod
    def of(cls, model: LanguageModel) -> Self:
        """Open those of this model in the cache folder."""
        return cls(cache_folder() / "texts" / model.fingerprint())

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str) -> Completion | None:
        """Return what was paid for under this key, if anything."""
        return self._known.get(key)

    def put(self, key: str, completion: Completion) -> None:
        """Keep a completion, in the file before this returns.

        Raises:
            BadInput: The file cannot be written.
        """
        line = json.dumps({"key": key, **asdict(completion)}, ensure_ascii=False) + "\n"
        try:
            with AppendLog(self.path) as log:
                log.lock(wait=True)
                log.cut()
                log.append(line.encode("utf-8", "surrogatepass"))
        except OSError as error:
            raise BadInput(
                f"cannot keep texts in {self.path} ({error.strerror or error}): name a writable folder, or set "
                "FEDLAB_CACHE"
            ) from error
        self._known[key] = completion

    def _read(self) -> None:
        try:
            content = self.path.read_bytes() if self.path.exists() else b""
        except OSError as error:
            raise BadInput(
                f"cannot read texts from {self.path} ({error.strerror or error}): name another folder"
            ) from error
        for line in content.split(b"\n"):
            if not line:
                continue
            try:
                fields = json.loads(line.decode("utf-8", "surrogatepass"))
                key = fields.pop("key")
                self._known[key] = Completion(**fields)
            except (ValueError, TypeError, KeyError, AttributeError):
                self.damaged += 1
        if self.damaged:
            _LOG.info("%d lines of %s are damaged: their texts will be asked for again", self.damaged, self.path)


class Answers(list[Completion]):
    """Completions in the order of their prompts.

    Attributes:
        usage: Cost of what was asked for now, and how many texts were recalled.
    """

    def __init__(self, completions: Iterable[Completion], usage: Usage):
        super().__init__(completions)
        self.usage = usage


def complete_all(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    seed: int,
    cache: Texts | None = None,
    progress: Progress | None = None,
    *,
    chunk: int = 256,
) -> Answers:
    """Return one text per prompt in their order and what they took, asking the model only for what was not paid for.

    A prompt's seed comes from `seed`, the prompt and the how manieth it is among its equals: the k-th text of a
    prompt stays the same when other prompts are added, left out or moved.

    Args:
        model, prompts, sampling: See `LanguageModel.complete`.
        seed: Seed of all the texts together.
        cache: Store of texts as they arrive; None keeps them nowhere.
        progress: Listener, called as progress(done, n), recalled texts first.
        chunk: Prompts per call of the model, at least 1.

    Raises:
        BadInput: Whatever the model raises, and a chunk below 1. What arrived before is kept.
    """
    checks.integer("chunk", chunk, least=1)
    n = len(prompts)
    seeds = prompt_seeds(prompts, seed)
    completions: dict[int, Completion] = {}
    keys: list[str] = []
    if cache is not None and n:
        fingerprint = model.fingerprint()
        keys = [key_of(fingerprint, p, sampling, s) for p, s in zip(prompts, seeds, strict=True)]
        completions = {i: known for i, key in enumerate(keys) if (known := cache.get(key)) is not None}
    usage = Usage(recalled=len(completions))
    missing = [index for index in range(n) if index not in completions]
    if progress is not None and completions:
        progress(len(completions), n)
    for start in range(0, len(missing), chunk):
        rows = missing[start : start + chunk]

        def arrived(position: int, completion: Completion, rows: list[int] = rows) -> None:
            if cache is not None:
                cache.put(keys[rows[position]], completion)
            completions[rows[position]] = completion
            if progress is not None:
                progress(len(completions), n)

        usage += model.cost(
            model.complete([prompts[i] for i in rows], sampling, [seeds[i] for i in rows], arrived=arrived)
        )
    return Answers((completions[index] for index in range(n)), usage)


def prompt_seeds(prompts: Sequence[Prompt], seed: int) -> list[int]:
    """(n,) seeds below 2**31: by seed, prompt, and the how manieth it is among its equals."""
    times: Counter[Prompt] = Counter()
    seeds = []
    for prompt in prompts:
        seeds.append(int(_hash(seed, _plain(prompt), times[prompt])[:8], 16) % 2**31)
        times[prompt] += 1
    return seeds


def key_of(fingerprint: str, prompt: Prompt, sampling: Sampling, seed: int) -> str:
    """Hash what a text belongs to, as 64 hexadecimal digits."""
    return _hash(fingerprint, _plain(prompt), sampling.as_dict(), seed)


def _plain(prompt: Prompt) -> object:
    return prompt if isinstance(prompt, str) else [[message.role, message.content] for message in prompt]


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
