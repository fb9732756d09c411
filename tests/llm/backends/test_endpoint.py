import threading
import time

import pytest

from fedlab.errors import BadInput
from fedlab.llm.backends.completion_cache import complete_all
from fedlab.llm.backends.endpoint import Endpoint
from fedlab.llm.language_model import Message, Sampling
from tests.llm.stub_endpoint import stub

pytest.importorskip("openai", reason="extra 'llm' is not installed")

SAMPLING = Sampling(max_tokens=5, stop=("\n",))


@pytest.fixture
def server():
    with stub() as server:
        yield server


@pytest.fixture
def make():
    """Endpoints that are closed, quick to try again, and keep what they warn of."""
    made = []

    def make(server, **options):
        options = {"key": None, "backoff": 0.01, "longest": 0.05, "retry_for": 60.0, "concurrent": 2} | options
        warnings = []
        model = Endpoint(server if isinstance(server, str) else server.url, "m", warn=warnings.append, **options)
        made.append(model)
        return model, warnings

    yield make
    for model in made:
        model.close()


def test_texts_come_in_order_with_their_seeds(server, make):
    model, warnings = make(server)
    told = []
    answers = model.complete(
        ["a", "b", "c"], SAMPLING, [1, 2, 3], lambda *p: told.append(p), arrived=lambda *a: told.append(a)
    )
    assert [a.text for a in answers] == ["a/1", "b/2", "c/3"]
    assert [t for t in told if isinstance(t[1], int)] == [(1, 3), (2, 3), (3, 3)]
    assert sorted(i for i, a in told if not isinstance(a, int)) == [0, 1, 2]
    assert not warnings and not model.troubles
    asked = next(body for body in server.asked if body["prompt"] == "a")
    expected = {"model": "m", "max_tokens": 5, "temperature": 0.8, "top_p": 0.9, "seed": 1, "stop": ["\n"]}
    assert expected.items() <= asked.items() and "top_k" not in asked


def test_chats_and_what_is_not_of_the_api(server, make):
    model, _ = make(server, extra={"min_p": 0})
    chat = (Message("system", "Be brief."), Message("user", "hi"))
    (answer,) = model.complete([chat], Sampling(top_k=7), [4])
    assert answer.text == "hi/4"
    assert server.asked[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert server.asked[0]["top_k"] == 7 and server.asked[0]["min_p"] == 0
    only_chats, _ = make(server, chat=True)
    assert only_chats.complete(["hi"], SAMPLING, [5])[0].text == "hi/5"


def test_a_chat_is_held_to_a_schema_unless_the_endpoint_refuses_that(server, make):
    chat, schema = (Message("user", "hi"),), {"type": "object"}
    for json_schema in (True, False):
        model, _ = make(server, json_schema=json_schema)
        assert model.follows_schema == json_schema
        model.complete([chat], Sampling(schema=schema), [4])
        model.complete([chat], SAMPLING, [4])
        model.complete(["hi"], Sampling(schema=schema), [4])
    held = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    formats = [body.get("response_format") for body in server.asked]
    assert formats == [held, None, None, None, None, None]
    assert not any("schema" in body for body in server.asked)


def test_the_key_comes_from_the_environment_and_stays_there(server, make, monkeypatch):
    model, _ = make(server, key="FEDLAB_TEST_KEY")
    monkeypatch.delenv("FEDLAB_TEST_KEY", raising=False)
    with pytest.raises(BadInput, match="key in the environment variable FEDLAB_TEST_KEY, which is empty"):
        model.complete(["a"], SAMPLING, [1])
    monkeypatch.setenv("FEDLAB_TEST_KEY", "secret")
    model.complete(["a"], SAMPLING, [1])
    assert server.asked[0]["authorization"] == "Bearer secret"
    assert "secret" not in repr(model) + model.fingerprint()


def test_tokens_and_cost_are_counted(server, make):
    model, _ = make(server, price_in=2.0, price_out=10.0)
    server.script = ["cut", "empty", 500]
    usage = complete_all(model, ["a", "b", "c"], SAMPLING, 0).usage
    assert (usage.requests, usage.prompt_tokens, usage.completion_tokens) == (3, 30, 15)
    assert usage.cost == pytest.approx((30 * 2 + 15 * 10) / 1e6)
    assert usage.troubles == {"truncated": 1, "empty": 1, "server error": 1}
    assert complete_all(model, ["d"], SAMPLING, 0).usage.troubles == {}  # each is told once


@pytest.mark.parametrize(
    ("trouble", "name"),
    [
        (500, "server error"),
        (503, "server error"),
        (429, "rate limited"),
        ("hang up", "unreachable"),
        ("not json", "malformed"),
        ("html", "malformed"),
        ("no choices", "malformed"),
        ("never", "timed out"),
    ],
)
def test_what_passes_is_waited_for(server, make, trouble, name):
    times, timeout = (1, 3.0) if trouble == "never" else (2, 60.0)
    model, warnings = make(server, timeout=timeout)
    server.script = [trouble] * times
    assert model.complete(["a"], SAMPLING, [1])[0].text == "a/1"
    assert model.troubles == {name: times}
    assert len(warnings) == 2 and name in warnings[0] and "answers again" in warnings[1]


@pytest.mark.parametrize(
    ("status", "remedy"), [(400, "shorten the prompt"), (401, "check the key"), (403, "may do"), (404, "model's name")]
)
def test_what_does_not_pass_is_said_at_once(server, make, status, remedy):
    model, _ = make(server, concurrent=1)
    server.always = status
    with pytest.raises(BadInput, match=rf"refused with {status} .*status {status}.*{remedy}"):
        model.complete(["a", "b"], SAMPLING, [1, 2])
    assert len(server.asked) == 1 and model.troubles == {"refused": 1}


def test_what_was_on_its_way_when_another_failed_is_told(server, make):
    model, _ = make(server)
    # Both are asked before the refusal, which a text follows.
    server.together, server.script, server.later = 2, [400, "later"], lambda: model.troubles["refused"]
    told = []
    with pytest.raises(BadInput, match="refused with 400"):
        model.complete(["a", "a", "a", "a"], SAMPLING, [1] * 4, arrived=lambda _, answer: told.append(answer.text))
    assert told == ["a/1"] and len(server.asked) == 2


def test_an_account_that_is_used_up_is_not_waited_for(server, make):
    server.always = (429, {"message": "no credit", "code": "insufficient_quota"}, {})
    with pytest.raises(BadInput, match="the account is used up"):
        make(server)[0].complete(["a"], SAMPLING, [1])


def test_an_endpoint_may_say_how_long_to_leave_it_alone(server, make):
    server.script = [(429, {"message": "later"}, {"Retry-After": "0.3"})]
    make(server)[0].complete(["a"], SAMPLING, [1])
    assert server.starts[1] - server.starts[0] >= 0.3


def test_malformed_answers_end_after_some_tries(server, make):
    server.always = "html"
    with pytest.raises(BadInput, match=r"gave 3 malformed answers to one prompt \(limit: retries 2\)"):
        make(server, retries=2)[0].complete(["a"], SAMPLING, [1])
    assert len(server.asked) == 3


def test_an_outage_ends_and_says_what_happened(server, make):
    model, warnings = make(server, retry_for=0.3)
    server.always = 503
    with pytest.raises(
        BadInput, match=r"no answer for [\d.]+ s \(limit: retry_for 0\.3 s; server error \d+\): start it"
    ):
        model.complete(["a", "b", "c"], SAMPLING, [1, 2, 3])
    assert len(warnings) == 1  # one outage, however many requests


def test_nobody_there_is_said_at_once(make):
    with stub() as server:
        url = server.url
    with pytest.raises(BadInput, match=r"cannot be reached .*start it \(a local one: fedlab llm serve\)"):
        make(url)[0].complete(["a"], SAMPLING, [1])


def test_a_wrong_key_is_said_at_once(server, make):
    server.models_status = 401
    with pytest.raises(BadInput, match="refused with 401"):
        make(server)[0].complete(["a"], SAMPLING, [1])
    assert not server.asked


def test_an_endpoint_without_a_list_of_models_is_one_too(server, make):
    server.models_status = 404
    assert make(server)[0].complete(["a"], SAMPLING, [1])[0].text == "a/1"


def test_it_dies_and_comes_back(make):
    with stub() as first:
        port, url = first.server_address[1], first.url
        model, warnings = make(url, concurrent=1)
        model.complete(["a"], SAMPLING, [1])
    revived = []

    def revive():
        deadline = time.monotonic() + 60
        while not warnings and time.monotonic() < deadline:
            time.sleep(0.01)
        context = stub(port)
        revived.append((context, context.__enter__()))

    thread = threading.Thread(target=revive)
    thread.start()
    try:
        answers = model.complete(["b", "c"], SAMPLING, [2, 3])
    finally:
        thread.join()
        revived[0][0].__exit__(None, None, None)
    assert [a.text for a in answers] == ["b/2", "c/3"]
    assert set(model.troubles) == {"unreachable"}
    assert "trying again for 60 s" in warnings[0] and "answers again after" in warnings[-1]


def test_requests_are_started_evenly(server, make):
    model, _ = make(server, per_minute=600, concurrent=4)
    began = time.monotonic()
    model.complete(list("abcdef"), SAMPLING, list(range(6)))
    assert max(server.starts) - began >= 0.49  # the last is held back for five intervals of 0.1 s


def test_requests_at_once_are_limited(server, make):
    server.delay = 0.1
    model, _ = make(server, concurrent=3)
    began = time.monotonic()
    model.complete(list("abcdef"), SAMPLING, list(range(6)))
    assert time.monotonic() - began >= 0.2  # two rounds of three


def test_likelihoods_need_an_endpoint_that_echoes(server, make):
    with pytest.raises(BadInput, match=r"does not tell the probabilities .*such as vLLM"):
        server.always = "cut"
        make(server)[0].log_likelihood(["a"], ["b"])


def test_nothing_in_nothing_out(make):
    model, _ = make("http://127.0.0.1:9/v1")
    assert model.complete([], SAMPLING, []) == [] and model.log_likelihood([], []).shape == (0, 2)
    with pytest.raises(BadInput, match="1 prompts and 0 seeds"):
        model.complete(["a"], SAMPLING, [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0.0}, r"timeout=0\.0 must be a finite number > 0"),
        ({"retry_for": float("inf")}, "retry_for=inf must be a finite number > 0"),
        ({"per_minute": -1.0}, r"per_minute=-1\.0"),
        ({"concurrent": 0}, "concurrent=0 must be a whole number >= 1"),
        ({"retries": -1}, "retries=-1 must be a whole number >= 0"),
        ({"price_in": -1.0}, r"price_in=-1\.0"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(BadInput, match=message):
        Endpoint("http://127.0.0.1:9/v1", "m", **options)
