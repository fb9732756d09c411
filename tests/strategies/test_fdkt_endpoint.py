"""FDKT against an endpoint that is killed in the middle of an answer, and comes back."""

import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

import fedlab
from experiments.deploy.federation import free_port

pytest.importorskip("openai", reason="extra 'llm' is not installed")

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
VOTES = {
    "study.only": ["votes"],
    "methods.fdkt.generator": None,
    "methods.fdkt.base": None,
    "methods.fdkt.strategy.text_filter.min_words": 4,
    "methods.fdkt.strategy.text_filter.judge": "chat",
}


class Endpoint:
    """A process with the phrasebook behind it; when it dies, another takes its place, which lives."""

    def __init__(self, folder: Path):
        self.port, self.log, self.died = free_port(), folder / "asked.jsonl", 0
        self._closed = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._supervisor = threading.Thread(target=self._revive)

    def start(self, deadly: int | None = None) -> None:
        words = [sys.executable, "-m", "tests.llm.stub_endpoint", str(self.port), str(self.log)]
        words += [] if deadly is None else [str(deadly)]
        self._process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        with self._process.stdout as said:
            assert said.readline() == "ready\n"

    def _revive(self) -> None:
        assert self._process is not None
        self._process.wait()
        if not self._closed.is_set():
            self.died += 1
            self.start()

    def __enter__(self) -> "Endpoint":
        self.start(deadly=30)
        self._supervisor.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._closed.set()
        self._process.kill()
        self._supervisor.join()
        self._process.kill()
        self._process.wait()

    def asked(self) -> Counter[str]:
        return Counter(self.log.read_text().splitlines())


def run(folder: Path, **settings: object):
    result = fedlab.simulate("fdkt_tiny", directory=folder, **VOTES, **settings)
    return result["fdkt"], result.values["study"]["cells"][0]["usage"]


def test_an_endpoint_that_dies_and_comes_back_changes_nothing_and_is_asked_for_nothing_twice(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLAB_CACHE", str(tmp_path / "cache"))
    expected, here = run(tmp_path / "here", **{"llm._target_": "tests.llm.phrasebook.Phrasebook"})
    with Endpoint(tmp_path) as endpoint:
        # One at a time: then what was answered is known, and what the death cost is one answer.
        settings = {
            "llm": "endpoint",
            "llm.base_url": f"http://127.0.0.1:{endpoint.port}/v1",
            "llm.model": "phrasebook",
            "llm.key": None,
            "llm.concurrent": 1,
            "llm.backoff": 0.05,
            "llm.longest": 0.2,
        }
        result, usage = run(tmp_path / "there", **settings)
        asked = endpoint.asked()
        again, recalled = run(tmp_path / "again", **settings)
        assert endpoint.died == 1 and endpoint.asked() == asked
    assert result["head_sha256"] == again["head_sha256"] == expected["head_sha256"]
    assert result["metrics"]["judge"] == expected["metrics"]["judge"]
    assert usage["requests"] == here["requests"] == len(asked) and usage["troubles"]["unreachable"] > 0
    assert sorted(asked.values())[-2:] == [1, 2]  # the one that killed it
    assert recalled["requests"] == 0 and recalled["recalled"] == usage["requests"]
