"""The training benchmark, small."""

from pathlib import Path

import pytest
from school import write_beir

from clickloop.plugin import bench_training
from clickloop.plugin.bench import Given
from clickloop.plugin.bench_training import training
from clickloop.trainer.throughput import WAYS


def test_both_ways_are_timed_and_measured(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKLOOP_MODEL", str(tiny_model))
    for name, value in {"EPOCHS": "2", "BATCH_SIZE": "8", "LEARNING_RATE": "5e-3", "MAX_TOKENS": "16"}.items():
        monkeypatch.setenv(f"CLICKLOOP_TRAINING__{name}", value)
    monkeypatch.setattr(bench_training, "ROUNDS", 1)
    rows = training(lambda _what: None, Given(write_beir(tmp_path / "beir"), None))
    assert list(rows) == ["before training", *WAYS, "ratio"]
    qualities = [float(rows[label]["nDCG@10"]) for label in ("before training", *WAYS)]
    assert all(0 < quality < 1 for quality in qualities)
    assert len(set(qualities)) > 1, "training changes something"
    for label in (*WAYS, "ratio"):
        assert min(float(rows[label][column]) for column in ("pairs/s", "pairs per CPU second")) > 0
    assert len({tuple(cells) for cells in rows.values()}) == 1, "every row has the same columns"
