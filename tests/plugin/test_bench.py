"""How benchmarks are run, whatever they measure."""

import json
from pathlib import Path

import pytest

from clickloop.plugin import bench as module
from clickloop.plugin.bench import Given, bench
from clickloop.trainer.lives import World, wrong_lives
from clickloop.trainer.recipe import Promotion


def test_figures_are_kept_when_a_later_benchmark_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def quick(say, _given):
        """Measures little."""
        say("turn 1 [of 1]")
        return {"row": {"seconds": "3", "share": 0.5}}

    def failing(_say, _given):
        raise RuntimeError("no space")

    monkeypatch.setattr(module, "BENCHMARKS", {"quick": quick, "failing": failing})
    with pytest.raises(RuntimeError, match="no space"):
        bench([], tmp_path / "new" / "figures.json", Given(None, None))
    assert json.loads((tmp_path / "new" / "figures.json").read_bytes()) == {
        "quick": {"row": {"seconds": "3", "share": 0.5}}
    }
    told = capsys.readouterr()
    assert "quick: turn 1 [of 1]" in told.err, "where no terminal is, steps are lines"
    assert "50.00%" in told.out


def test_lives_tell_how_many_have_been_lived() -> None:
    told: list[int] = []
    wrong_lives(World(blocks=2), (1,), 60, Promotion(), told.append)
    assert told == [50, 60]
