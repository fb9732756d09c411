"""A small OpenAI-compatible server that misbehaves as it is told, and counts what it was asked.

As a program it is the phrasebook behind an endpoint, which writes down what it is asked and dies when it is told to:

    python -m tests.llm.stub_endpoint PORT LOG [the request that kills it, by its number]
"""

import json
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.asked = []  # the body of every completion asked for
        self.starts = []
        self.together = 1  # requests that are there before the first is answered
        self.later = lambda: True  # when what comes "later" is answered
        self.closing = threading.Event()
        self.script = []  # what the next completions get, instead of an answer
        self.always = None
        self.says = None  # body -> Completion, for answers that mean something
        self.models_status = 200
        self.delay = 0.0
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def until(self, true):
        while not true() and not self.closing.wait(0.01):
            pass

    def handle_error(self, *_):
        pass  # whoever asked has gone: some tests want that


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.reply(self.server.models_status, {"object": "list", "data": []})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(body | {"authorization": self.headers["Authorization"]})
            self.server.starts.append(time.monotonic())
            what = self.server.script.pop(0) if self.server.script else self.server.always
        time.sleep(self.server.delay)
        self.server.until(lambda: len(self.server.asked) >= self.server.together)
        chat = self.path.endswith("chat/completions")
        if isinstance(what, int):
            return self.reply(what, {"error": {"message": f"status {what}", "code": None}})
        if isinstance(what, tuple):  # a status, a message, headers
            status, error, headers = what
            return self.reply(status, {"error": error}, headers)
        if what == "never":
            return self.server.closing.wait()
        if what == "later":
            self.server.until(self.server.later)
        if what == "not json":
            return self.raw(200, b'{"choices": [', "application/json")
        if what == "html":
            return self.raw(200, b"<html>hello</html>", "text/html")
        if what == "no choices":
            return self.reply(200, {"object": "text_completion"})
        if what == "hang up":
            self.close_connection = True
            return self.connection.close()
        if what == "empty":
            return self.answer("", chat)
        if what == "cut":
            return self.answer("half a sen", chat, "length")
        if self.server.says is not None:
            answer = self.server.says(body)
            return self.answer(answer.text, chat, answer.finish)
        said = body["messages"][-1]["content"] if chat else body["prompt"]
        return self.answer(f"{said}/{body['seed']}", chat)

    def answer(self, text, chat, finish="stop"):
        said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        choice = {"index": 0, "finish_reason": finish, **said}
        self.reply(200, {"id": "1", "object": "x", "created": 1, "model": "m", "choices": [choice], "usage": usage})

    def reply(self, status, body, headers=()):
        self.raw(status, json.dumps(body).encode(), "application/json", headers)

    def raw(self, status, body, kind, headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def stub(port=0):
    server = Server(port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def main(port, log, deadly=None):
    import numpy as np

    from fedlab.llm.language_model import Message
    from tests.llm.phrasebook import Phrasebook

    book, server = Phrasebook(), Server(int(port))

    def says(body):
        with Path(log).open("a") as file:
            file.write(json.dumps(body.get("messages") or [body["prompt"], body["seed"]]) + "\n")
        if len(server.asked) == (deadly and int(deadly)):
            os.kill(os.getpid(), signal.SIGKILL)  # in the middle of an answer
        chat = tuple(Message(**one) for one in body.get("messages", ()))
        return book._answer(chat or body["prompt"], np.random.default_rng(body["seed"]))

    server.says = says
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
