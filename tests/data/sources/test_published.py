import numpy as np
import pytest

from fedlab.data.sources.packages import is_cached
from fedlab.data.sources.published import EMOJI, REVIEWS, Emoji, Reviews
from fedlab.errors import BadInput


def needs(name, *packages):
    if not all(map(is_cached, packages)):
        pytest.skip(f"{name} is not in the cache: fedlab data fetch {name}")


def test_reviews_are_read_from_the_published_format(tiny_reviews):
    data = Reviews().load()
    # 4 domains x 10 clear ratings; a rating of exactly the threshold is not clear.
    assert len(data.train) + len(data.test) == 40
    assert len(data.test) == 8
    assert data.classes == ("negative", "positive")
    assert sorted(zip(data.test.groups["domain"].tolist(), data.test.labels.tolist(), strict=True)) == [
        (domain, label) for domain in ("amazon", "movie", "nyt", "tweets") for label in (0, 1)
    ]
    for text, label, domain in zip(data.train.inputs, data.train.labels, data.train.groups["domain"], strict=True):
        assert text.startswith(f"{domain} caf\u00e9\u2028")
        assert label == 1 - int(text.split("\u2028")[1]) % 2


def test_the_domain_task_labels_the_same_sentences_by_origin(tiny_reviews):
    sentiment, domain = Reviews().load(), Reviews(task="domain").load()
    assert domain.train.inputs == sentiment.train.inputs
    names = np.array(domain.classes)[domain.train.labels]
    assert np.array_equal(names, domain.train.groups["domain"])
    assert domain.fingerprint != sentiment.fingerprint


def test_reviews_follow_threshold_and_seed(tiny_reviews):
    everything = Reviews(threshold=0).load()
    assert len(everything.train) + len(everything.test) == 48
    assert Reviews(seed=1).load().test.inputs != Reviews(seed=0).load().test.inputs


def test_emoji_are_read_from_the_published_format(tiny_emoji):
    data = Emoji().load()
    assert data.classes == ("Flags", "Food")
    assert data.train.inputs.shape == (16, 64, 64, 3)
    assert data.train.inputs.dtype == np.uint8
    assert np.all(data.train.inputs[:, 1:] == 255)  # transparent becomes white
    number = data.train.inputs[:, 0, 0, 0]
    assert np.array_equal(data.train.labels, number % 2)
    style = np.where(data.train.groups["vendor"] == "google", 200, 100)
    assert np.array_equal(data.train.inputs[:, 0, 0, 1], style)


def test_an_emoji_held_out_is_held_out_for_every_vendor(tiny_emoji):
    data = Emoji().load()
    held = data.test.inputs[:, 0, 0, 0].tolist()
    assert len(data.test) == 4
    assert held[:2] == held[2:]
    assert not set(held) & set(data.train.inputs[:, 0, 0, 0].tolist())


def test_one_vendor_alone(tiny_emoji):
    assert set(Emoji(vendors=["twitter"]).load().train.groups["vendor"]) == {"twitter"}
    assert hash(Emoji(vendors=["twitter"])) == hash(Emoji(vendors=("twitter",)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Reviews(task="sentimant").load(), "did you mean 'sentiment'"),
        (lambda: Reviews(threshold=4).load(), r"threshold=4 must be a finite number in \[0, 4\)"),
        (lambda: Emoji(vendors=("gogle",)), "did you mean 'google'"),
        (lambda: Emoji(vendors=()), "at least one"),
        (lambda: Emoji(vendors=("google", "google")), "at most once"),
        (lambda: Reviews().load(), r"dataset 'reviews' is not in the cache .*fedlab data fetch reviews` \(2.5 MB"),
        (lambda: Emoji().load(), "fedlab data fetch emoji` .*Apache-2.0"),
    ],
)
def test_what_cannot_be_used_is_refused(cache, build, message):
    with pytest.raises(BadInput, match=message):
        build()


def test_the_real_reviews_have_the_counted_samples():
    needs("reviews", REVIEWS)
    data = Reviews().load()
    everything = Reviews(threshold=0).load()
    assert len(data.train) + len(data.test) == 19_136
    # 23,703 rated sentences, less those whose mean rating is exactly 0.
    assert 22_000 < len(everything.train) + len(everything.test) < 23_703
    names, counts = np.unique(
        np.concatenate([data.train.groups["domain"], data.test.groups["domain"]]), return_counts=True
    )
    assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == {
        "amazon": 2943,
        "movie": 10043,
        "nyt": 2788,
        "tweets": 3362,
    }


@pytest.mark.slow
def test_the_real_emoji_have_the_counted_images():
    needs("emoji", *EMOJI.values())
    data = Emoji().load()
    assert (len(data.train), len(data.test), data.num_classes) == (3056, 766, 10)
    assert data.train.inputs.shape[1:] == (64, 64, 3)
    google, twitter = np.split(data.train.inputs.astype(np.int64), 2)
    assert np.array_equal(*np.split(data.train.labels, 2))
    assert np.abs(google - twitter).mean() > 10  # the same emoji, drawn differently
