import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedlab.errors import BadInput
from fedlab.llm.backends.completion_cache import Texts, complete_all, key_of, prompt_seeds
from fedlab.llm.language_model import Completion, LanguageModel, Message, Sampling, Usage
from tests.llm.stub_endpoint import stub

SAMPLING = Sampling(max_tokens=5)
CHAT = (Message("user", "a"),)


class Parrot(LanguageModel):
    """Says the prompt and its seed; dies before the prompt `fatal`."""

    def __init__(self, name="parrot", fatal=None):
        self.name, self.fatal, self.asked = name, fatal, []

    def fingerprint(self):
        return self.name

    def _complete(self, prompts, sampling, seeds, arrived):
        for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            if prompt == self.fatal:
                raise BadInput("dead")
            self.asked.append(prompt)
            arrived(index, Completion(f"{prompt}/{seed}\n\u2028é\ud800", 2, 3, "stop"))

    def _log_likelihood(self, prompts, continuations, rows):
        raise AssertionError


def test_texts_paid_for_are_not_asked_for_again(tmp_path):
    model = Parrot()
    prompts = ["a", "b", "a", CHAT]
    first = complete_all(model, prompts, SAMPLING, 7, Texts(tmp_path))
    assert first.usage == Usage(requests=4, prompt_tokens=12, completion_tokens=8)
    assert first[0] != first[2]  # the second text of the same prompt
    progress = []
    again = complete_all(model, prompts, SAMPLING, 7, Texts(tmp_path), lambda *p: progress.append(p))
    assert again == first
    assert again.usage == Usage(recalled=4)
    assert progress == [(4, 4)] and len(model.asked) == 4


def test_a_text_does_not_depend_on_its_neighbours(tmp_path):
    model = Parrot()
    first = complete_all(model, ["a", "b", "a"], SAMPLING, 7, Texts(tmp_path))
    other = complete_all(model, ["c", "a", "a", "b", "a"], SAMPLING, 7, Texts(tmp_path), chunk=1)
    assert [other[1], other[3], other[2]] == list(first)
    assert model.asked == ["a", "b", "a", "c", "a"]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"sampling": Sampling(max_tokens=6)},
        {"sampling": Sampling(max_tokens=5, stop=("x",))},
        {"model": Parrot("another")},
    ],
)
def test_whatever_changes_a_text_is_in_its_key(tmp_path, change):
    asked = {"model": Parrot(), "prompts": ["a"], "sampling": SAMPLING, "seed": 7}
    complete_all(**asked, cache=Texts(tmp_path))
    assert complete_all(**(asked | change), cache=Texts(tmp_path)).usage.recalled == 0


def test_a_chat_is_not_the_text_it_says():
    assert key_of("m", "a", SAMPLING, 1) != key_of("m", CHAT, SAMPLING, 1)


def test_seeds_are_those_of_every_machine():
    # sha256 of [seed, prompt, times], the first 32 bits, the highest dropped
    assert prompt_seeds(["a", "a", "b"], 7) == [
        int(h, 16) % 2**31 for h in _heads([[7, "a", 0], [7, "a", 1], [7, "b", 0]])
    ]


def _heads(parts):
    import hashlib

    return [hashlib.sha256(json.dumps(part).encode()).hexdigest()[:8] for part in parts]


def test_what_arrived_before_a_failure_is_kept(tmp_path):
    with pytest.raises(BadInput, match="dead"):
        complete_all(Parrot(fatal="c"), ["a", "b", "c"], SAMPLING, 7, Texts(tmp_path))
    model = Parrot()
    assert complete_all(model, ["a", "b", "c"], SAMPLING, 7, Texts(tmp_path)).usage.recalled == 2
    assert model.asked == ["c"]


def test_without_a_cache_everything_is_asked_for():
    model = Parrot()
    assert len(complete_all(model, ["a", "b"], SAMPLING, 7)) == 2
    assert complete_all(model, [], SAMPLING, 7) == []
    with pytest.raises(BadInput, match="chunk=0 must be a whole number >= 1"):
        complete_all(model, ["a"], SAMPLING, 7, chunk=0)


@pytest.mark.parametrize("torn", [b'{"key": "x", "te', b"\xff\xfe", b'{"key": "x"'])
def test_a_partial_last_line_is_cut_off(tmp_path, torn):
    complete_all(Parrot(), ["a", "b"], SAMPLING, 7, Texts(tmp_path))
    file = tmp_path / "texts.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + torn)
    texts = Texts(tmp_path)
    assert len(texts) == 2 and texts.damaged == 1
    assert complete_all(Parrot(), ["a", "b", "c"], SAMPLING, 7, texts).usage.recalled == 2
    assert file.read_bytes().startswith(whole) and len(file.read_bytes().splitlines()) == 3
    assert Texts(tmp_path).damaged == 0


def test_a_damaged_line_is_asked_for_again(tmp_path):
    complete_all(Parrot(), ["a", "b"], SAMPLING, 7, Texts(tmp_path))
    file = tmp_path / "texts.jsonl"
    first, second = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(first.replace(b'"stop"', b'"halt"') + second)
    assert complete_all(Parrot(), ["a", "b"], SAMPLING, 7, Texts(tmp_path)).usage.recalled == 1


def test_two_writers_share_a_file(tmp_path):
    one, other = Texts(tmp_path), Texts(tmp_path)
    for index in range(20):
        (one, other)[index % 2].put(f"k{index}", Completion("t" * 9000, 1, 1, "stop"))
    assert len(Texts(tmp_path)) == 20


def test_a_folder_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    texts = Texts(tmp_path / "file" / "below")
    with pytest.raises(BadInput, match=r"cannot keep texts in .*texts\.jsonl"):
        texts.put("k", Completion("", 1, 1, "stop"))
    (tmp_path / "texts.jsonl").mkdir()
    with pytest.raises(BadInput, match="cannot read texts"):
        Texts(tmp_path)


PROGRAM = """
import sys
from fedlab.llm.backends.endpoint import Endpoint
from fedlab.llm.backends.completion_cache import Texts, complete_all
from fedlab.llm.language_model import Sampling
model = Endpoint(sys.argv[1], "m", key=None, concurrent=2)
prompts = [f"p{i}" for i in range(30)]
print(complete_all(model, prompts, Sampling(), 1, Texts(sys.argv[2])).usage.recalled)
"""


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_without_paying_twice(tmp_path):
    pytest.importorskip("openai", reason="extra 'llm' is not installed")
    with stub() as server:
        server.delay = 0.05
        command = [sys.executable, "-c", PROGRAM, server.url, str(tmp_path)]
        # the code under test is that beside the tests, wherever they are started
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
        process = subprocess.Popen(command, env=environment)
        file = tmp_path / "texts.jsonl"
        try:
            end = time.monotonic() + 60
            while not file.exists() or file.read_bytes().count(b"\n") < 5:
                assert time.monotonic() < end and process.poll() is None
                time.sleep(0.01)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        kept = file.read_bytes().count(b"\n")
        again = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert int(again.stdout) == kept
        assert 30 <= len(server.asked) <= 30 + 3  # twice: two on their way, one arrived but not yet kept
