"""FDKT's server: what is written, voted on, kept and charged, over whole federations in one process."""

import json
import os

import numpy as np
import pytest
from hydra.errors import InstantiationException
from rapidfuzz.distance import Levenshtein

import fedlab
from fedlab.data.sources.phrases import Phrases
from fedlab.engine.simulation.host import Host
from fedlab.errors import BadInput, ClientFailed
from fedlab.llm.synthesis.budget import Budget
from fedlab.llm.synthesis.text_packing import normal, unpack_texts
from fedlab.privacy.accounting.ledger import BudgetSpent, Ledger
from fedlab.privacy.accounting.release import Release
from fedlab.privacy.mechanisms.gaussian import epsilon_of
from fedlab.report.texts import sample_cells
from strategies.fdkt import FDKT
from tests.llm.tuning.families import save_encoder

DATA = Phrases(seed=0).load()
BOOK = {"llm._target_": "tests.llm.phrasebook.Phrasebook"}
VOTES = {
    "methods.fdkt.generator": None,
    "methods.fdkt.base": None,
    "study.only": ["votes"],
    "methods.fdkt.strategy.text_filter.min_words": 4,
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDLAB_CACHE", str(tmp_path / "cache"))

    def running(only_votes: bool = True, **settings: object):
        settings = {**BOOK, **(VOTES if only_votes else {}), **settings}
        return fedlab.simulate("fdkt_tiny", directory=tmp_path / f"run{len(list(tmp_path.iterdir()))}", **settings)

    return running


def first(result, key: str):
    return result.values["study"]["cells"][0][key]


@pytest.mark.slow
def test_what_a_good_model_writes_helps_and_every_release_is_in_the_ledger(run):
    result = run(**{"study.seeds": [0, 1, 2]})
    mean = next(row for row in result.values["study"]["summary"] if row["domain"] == "all")
    assert mean["points gained"] > 5 and mean["seeds"] == 3  # ten labels of texts with sixteen words that matter
    privacy, metrics = result.values["privacy"], result["fdkt"]["metrics"]
    assert privacy["epsilon"] == pytest.approx(8.0, rel=0.01) and privacy["unit"] == "sample"
    assert privacy["epsilon"] == pytest.approx(epsilon_of(metrics["votes_noise_multiplier"], 1e-5), rel=1e-3)
    account = Ledger.read(result.directory / "privacy" / "votes, epsilon 8.0, seed 2.jsonl")
    assert account.spent()[0] == pytest.approx(privacy["epsilon"])
    assert result.values["rounds"] == 3 and metrics["texts"] == len(unpack_texts(model_of(result)))
    # What was written is kept, dropped or outvoted: nothing is lost unsaid.
    written = sum(stage["came"] for stage in metrics["stages"] if not stage["stage"].startswith("elected"))
    dropped = {**metrics["dropped"]}
    lost = sum(dropped.pop(why, 0) for why in ("empty", "truncated"))
    assert lost > 0 and written + lost == 3 * 2 * 8 and written == metrics["texts"] + sum(dropped.values())
    samples = sample_cells(result.values["study"])
    assert samples and {row[0] for row in samples[1]} == {stage["stage"] for stage in metrics["stages"]}
    for kind in ("gain", "epsilon", "pipeline"):
        assert (result.directory / "figures" / f"{kind}.png").exists()


def test_a_fine_tuned_model_can_be_taught_and_says_how_it_went(run, tmp_path):
    folder = save_encoder(tmp_path / "encoder")
    small = {"small_model": "huggingface", "small_model.id": folder, "small_model.training.epochs": 2}
    result, plain = run(**small), run()
    assert result["fdkt"]["head_sha256"] == plain["fdkt"]["head_sha256"], "the server's texts are the same"
    for row in result.values["study"]["rows"]:
        assert set(row["fits"]) >= {"local", "taught"} and 0 <= row["accuracy"] <= 1
        fit = row["fits"]["taught"]
        assert fit["trained"] <= 2 and len(fit["losses"]) == fit["trained"] + 1 and fit["held_out"] == 2
    assert set(plain.values["study"]["rows"][0]["fits"]["upper"]) == {"seconds"}


def model_of(result):
    from safetensors.numpy import load_file

    return load_file(result.directory / "model.safetensors")


@pytest.mark.slow
def test_equal_seeds_are_equal_bits_and_texts_are_not_asked_for_twice(run):
    one, two = run(), run()
    assert one["fdkt"]["head_sha256"] == two["fdkt"]["head_sha256"]
    assert first(one, "usage")["requests"] > 0 == first(two, "usage")["requests"]
    assert first(two, "usage")["recalled"] == first(one, "usage")["requests"]
    assert run(**{"study.seeds": [1]})["fdkt"]["head_sha256"] != one["fdkt"]["head_sha256"]


@pytest.mark.skipif("FEDLAB_SLOW" not in os.environ, reason="slow: FEDLAB_SLOW=1 runs it")
def test_workers_change_nothing(run):
    assert run(engine="ray")["fdkt"]["head_sha256"] == run()["fdkt"]["head_sha256"]


@pytest.mark.parametrize(
    ("settings", "rounds", "epsilon"),
    [
        ({"methods.fdkt.votes": 0}, 2, 0.0),
        ({"methods.fdkt.votes": 2, "methods.fdkt.strategy.augment_per_class": 4}, 4, 8.0),
        ({"study.epsilon": [None]}, 3, None),
        ({"methods.fdkt.count_labels": True}, 3, 8.0),
    ],
)
def test_variants(run, settings, rounds, epsilon):
    result = run(**settings)
    privacy = result.values["privacy"]
    assert result.values["rounds"] == rounds and result["fdkt"]["metrics"]["texts"] > 0
    assert privacy is None if epsilon is None else privacy["epsilon"] == pytest.approx(epsilon, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("only_votes", [True, False])
def test_no_private_text_is_in_any_message(run, monkeypatch, only_votes):
    """Nor one of fewer than ten edits from it: all strings that messages could hold are compared, as bytes.

    And nothing is in a message that is not accounted for: a domain is public, votes are noised, what a generator writes
    follows from steps that are in the ledger.
    """
    said: list[bytes] = []
    fields: set[tuple[str, ...]] = set()
    answer = Host._handle

    def listening(self, message, first_try):
        reply = answer(self, message, first_try)
        from flwr.common.serde import recorddict_to_proto

        said.append(recorddict_to_proto(reply.content).SerializeToString())
        assert list(reply.content) == ["arrays"]
        fields.add(tuple(reply.content["arrays"]))
        return reply

    monkeypatch.setattr(Host, "_handle", listening)
    monkeypatch.setattr(Host, "_attempt", lambda self, *asked: None)
    run(only_votes, **({} if only_votes else {"study.only": ["generator and votes"]}))
    assert len(said) == (9 if only_votes else 12)
    written = set() if only_votes else {("text", "ends", "labels")}
    assert fields == {("text", "ends"), ("votes",), ()} | written
    private = [normal(text) for text in DATA.train.inputs]
    for message in said:
        spoken = normal(message.decode("utf-8", "ignore"))
        for text in private:
            assert text not in spoken
            shortest = min(
                (
                    Levenshtein.distance(text, spoken[start : start + len(text)], score_cutoff=9)
                    for start in range(0, max(1, len(spoken) - len(text) + 1), 5)
                ),
                default=10,
            )
            assert shortest >= 10


@pytest.mark.slow
def test_generators_and_votes_spend_one_budget(run):
    result = run(only_votes=False, **{"study.only": ["generator and votes", "generator"]})
    both, alone = (cell["privacy"] for cell in result.values["study"]["cells"])
    assert both["mechanisms"] == ["gaussian", "subsampled_gaussian"] and 7.8 < both["epsilon"] <= 8.0
    assert alone["mechanisms"] == ["subsampled_gaussian"] and 3.8 < alone["epsilon"] <= 4.0
    stages = [stage["stage"] for stage in result["fdkt"]["metrics"]["stages"]]
    assert stages[0] == "generators" and result.values["rounds"] == 4


def test_labels_that_clients_have_more_of_keep_more_candidates():
    budget = Budget(votes=1, labels=True)
    server = FDKT(None, None, ["good", "bad"], budget, keep_fraction=0.5)  # pyright: ignore[reportArgumentType]
    server.counts = {"food": np.array([30.0, 10.0])}
    assert [server.places("food", label, 20) for label in server.labels] == [15, 5]
    server.counts = {"food": np.array([-2.0, 50.0])}
    assert [server.places("food", label, 20) for label in server.labels] == [1, 20]
    plain = FDKT(None, None, ["good", "bad"], Budget(), keep_fraction=0.5)  # pyright: ignore[reportArgumentType]
    assert plain.places("food", "bad", 20) == 10


def test_whoever_has_spent_its_budget_is_asked_for_nothing():
    budget = Budget(epsilon=8.0)
    server = FDKT(None, None, ["good", "bad"], budget)  # pyright: ignore[reportArgumentType]
    assert budget.promise
    server.ledger = Ledger(budget.promise)
    server.charge_clients("vote", 2, (1, 2))
    before = server.ledger.spent()
    server.charge_clients("vote", 2, (1, 2))  # the replay of the same bits
    assert server.ledger.spent() == before and before[0] == pytest.approx(8.0, rel=1e-3)
    with pytest.raises(BudgetSpent, match="past the cap of 8"):
        server.charge_clients("vote", 3, (2,))
    assert server.ledger.spent() == before
    server.ledger.charge(Release("other", "other", "gaussian", noise_multiplier=50.0, clients=(3,)))
    with pytest.raises(BudgetSpent):
        server.charge_clients("vote", 2, (3,))


@pytest.mark.slow
def test_filters_work_in_the_pipeline(run):
    all_in = run(**{"methods.fdkt.strategy.text_filter.similarity": 1, "methods.fdkt.votes": 0})
    clustered = run(
        **{
            "methods.fdkt.strategy.text_filter.per_cluster": 1,
            "methods.fdkt.votes": 0,
            "methods.fdkt.strategy.text_filter.judge": "likelihood",
        }
    )
    assert first(clustered, "dropped")["crowded"] > 0 and first(clustered, "texts") < first(all_in, "texts")


def test_a_model_that_follows_instructions_judges_in_a_chat_and_is_paid_once(run):
    asked = {"methods.fdkt.strategy.text_filter.judge": "chat", "methods.fdkt.votes": 0}
    result, again, plain = run(**asked), run(**asked), run(**{"methods.fdkt.votes": 0})
    metrics, texts = result["fdkt"]["metrics"], unpack_texts(model_of(result))
    dropped = first(plain, "texts") - metrics["texts"]
    assert metrics["dropped"]["ineligible"] == dropped > 0 and metrics["judge"] == {
        "questions": -(-first(plain, "texts") // 4)
    }
    left = set(unpack_texts(model_of(plain))) - set(texts)
    assert left and all("coffee" in text for text in left) and not any("coffee" in text for text in texts)
    assert metrics["usage"]["requests"] == first(plain, "usage")["recalled"] + metrics["judge"]["questions"]
    assert first(again, "usage")["requests"] == 0 and first(again, "texts") == metrics["texts"]


def test_prompts_without_words_for_a_judge_are_refused_by_name(run):
    with pytest.raises(InstantiationException, match=r"no template judge.*prompts\.judge"):
        run(**{"methods.fdkt.strategy.text_filter.judge": "chat", "prompts.judge": ""})


def test_a_domain_that_the_prompts_do_not_know_is_named(run):
    with pytest.raises(ClientFailed, match=r"unknown domain 'music'.*known are food, travel"):
        run(**{"~prompts.domains.music": None, "~prompts.demonstrations.music": None})
    # With two thirds to spare the others go on without it.
    result = run(**{"~prompts.domains.music": None, "~prompts.demonstrations.music": None, "tolerate": 0.4})
    assert "unknown domain" in json.dumps(result["fdkt"]["faults"]) and result["fdkt"]["metrics"]["texts"] > 0


def test_bad_input(run):
    for wrong in ({"methods.fdkt.strategy.candidates": 0}, {"methods.fdkt.strategy.keep_fraction": 0.0}):
        with pytest.raises(InstantiationException, match=next(iter(wrong)).rsplit(".", 1)[1]):
            run(**wrong)
    with pytest.raises(BadInput, match=r"unknown variant of study\.only 'vote'"):
        run(**{"study.only": ["vote"]})
    with pytest.raises(BadInput, match="has no cell"):
        run(**{"study.labelled": []})
    with pytest.raises(InstantiationException, match=r"epsilon=-1"):
        run(**{"study.epsilon": [-1.0]})
    with pytest.raises(InstantiationException, match=r"labels=.* name 1 of 2 classes"):
        run(**{"methods.fdkt.client.labels": ["good"]})
