import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from fedlab.data.sources.packages import keep
from fedlab.data.sources.published import DOMAINS, EMOJI, REVIEWS


def tar(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def png(array, mode):
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(array, dtype=np.uint8), mode).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FEDLAB_CACHE", str(folder))
    return folder


@pytest.fixture
def tiny_reviews(cache, tmp_path):
    """The published format with 12 sentences a domain: 5 clearly positive, 5 clearly negative, 2 neither."""
    ratings = [1.5, -2.0] * 5 + [0.5, -0.1]
    inner = {}
    for domain, name in DOMAINS.items():
        lines = [f"{i}_1\t{rating}\t{domain} caf\u00e9\u2028{i}" for i, rating in enumerate(ratings)]
        inner[f"hutto_ICWSM_2014/{name}"] = "\r\n".join(lines).encode()
    resources = tar(tmp_path / "inner.tar.gz", inner).read_bytes()
    name = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
    return keep(
        REVIEWS, tar(tmp_path / "reviews.tar.gz", {"vaderSentiment-3.3.2/LICENSE.txt": b"MIT", name: resources})
    )


@pytest.fixture
def tiny_emoji(cache, tmp_path):
    """The published format, 10 emoji in 2 categories; image i holds i in its first pixel, else is clear."""
    drawn = {"has_img_google": True, "has_img_twitter": True}
    kinds = ("Flags", "Food")
    table = [{"image": f"{i:04x}.png", "category": kinds[i % 2], **drawn} for i in range(10)]
    hidden = {"image": "none.png", "category": "Flags", **dict.fromkeys(drawn, False)}
    for vendor, package in EMOJI.items():
        files = {"package/package.json": b"{}", "package/emoji.json": json.dumps([*table, hidden]).encode()}
        for i in range(10):
            pixels = np.zeros((64, 64, 4))
            pixels[0, 0] = (i, 200 if vendor == "google" else 100, 0, 255)
            files[f"package/img/{vendor}/64/{i:04x}.png"] = png(pixels, "RGBA")
        keep(package, tar(tmp_path / f"{vendor}.tgz", files))
    return cache
