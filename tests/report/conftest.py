from __future__ import annotations

from pathlib import Path

import pytest

from fedlab.tracking.run_directory import RunDirectory

HEAD = "0123456789abcdef" * 4


def method(accuracy: float | None, rounds: int, head: str = HEAD) -> dict:
    return {
        "accuracy": accuracy,
        "rounds": rounds,
        "bytes_up_per_client": 1_500_000 * (rounds > 0),
        "bytes_down_per_client": 20_000 * rounds,
        "seconds": {"total": 2.25},
        "head_sha256": head,
    }


@pytest.fixture
def results() -> dict:
    methods = {"centralised": method(0.98, 0), "afl": method(0.98, 1), "fedavg": method(0.91, 4, "f" * 64)}
    return {"experiment": "afl_digits", "strategy": "afl", "seed": 3, "clients": 10, "methods": methods} | methods[
        "afl"
    ]


@pytest.fixture
def events() -> list[dict]:
    rounds = [
        {"event": "round", "method": "fedavg", "round": r, "accuracy": a, "bytes_up": 1000 * r, "bytes_down": 10 * r}
        for r, a in enumerate((0.1, 0.5, 0.8, 0.9, 0.91))
    ]
    star = {"event": "round", "method": "afl", "round": 1, "accuracy": 0.98, "bytes_up": 9, "bytes_down": 1}
    return [*rounds, star]


@pytest.fixture
def run(tmp_path: Path, results: dict, events: list[dict]) -> Path:
    with RunDirectory(tmp_path / "run") as directory:
        for event in events:
            fields = {key: value for key, value in event.items() if key != "event"}
            directory.event(event["event"], **fields)
        directory.write_json("results.json", results)
        directory.write_json("label_counts.json", [[5, 0], [0, 0], [1, 2]])
        directory.write_text("config.yaml", "experiment: afl_digits\n")
        directory.manifest(seeds={"seed": 3})
    return directory.path
