"""A picture file becomes an array: one size, three channels, transparency composited on white.

Every image source decodes here, so that a transparent PNG, a palette GIF and a grey JPEG cannot differ by accident.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from fedlab.errors import BadInput

if TYPE_CHECKING:
    from PIL.Image import Image


def decode(content: bytes, name: str, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Decode an image file's bytes and resize it to `size` x `size` pixels.

    Raises:
        BadInput: The bytes are no image; names the file.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as picture:
            return to_array(picture, size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput(f"{name} cannot be read as an image ({error}): repair or remove it") from error


def to_array(picture: Image, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Composite a PIL image on white and resize it to `size` x `size` pixels."""
    from PIL import Image

    if picture.mode != "RGB":
        opaque = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB")
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(picture).copy()
