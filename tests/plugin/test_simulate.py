"""The simulator: a whole small life on a tiny model, what is cached, what is refused; and evaluating a folder."""

import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from rich.console import Console
from school import RECIPE, RECIPE_VARIABLES, write_beir

from clickloop.plugin.loop import ClickLoop
from clickloop.plugin.plan import Plan
from clickloop.plugin.settings import Settings
from clickloop.plugin.simulate import _farm_table, simulate
from clickloop.retriever.errors import ClickLoopError

Here = Callable[..., tuple[int, str, str]]


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    return write_beir(tmp_path / "beir")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Empty at first: all lives here begin with the same index."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tiny_model: Path, cache: Path) -> Path:
    """The settings of a tiny model's service in the environment; returns where first indexes and oracles are kept."""
    monkeypatch.setenv("CLICKLOOP_MODEL", str(tiny_model))
    for name, value in RECIPE_VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CLICKLOOP_MINING__MIN_PAIRS", "40")
    monkeypatch.setenv("CLICKLOOP_PROMOTION__MIN_QUERIES", "10")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return cache / "clickloop" / "simulate"


def test_a_life_reports_decisions_lessons_truth_and_oracles(
    beir: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With two it depends on the kind of processor what is learned.
    monkeypatch.setenv("CLICKLOOP_TRAINING__EPOCHS", "3")
    plan = Plan(nights=1, sessions=1200, position_bias=0.2, bots=0.05, seed=3)
    found = simulate(beir, tmp_path / "life", plan, tmp_path / "found.json")
    assert orjson.loads((tmp_path / "found.json").read_bytes()) == orjson.loads(orjson.dumps(found))
    (night,) = found["nights"]
    assert night["outcome"] in {"promoted", "rejected", "not_enough_evidence"}, night
    assert night["reasons"]
    mined = night["mined"]
    assert mined["pairs"] >= 40
    assert mined["precision"] > mined["clicked_precision"]
    assert 0 < mined["coverage"] <= 1
    served = night["candidate"] if night["outcome"] == "promoted" else found["first"]
    assert night["served"]["nDCG@10"] == pytest.approx(served["nDCG@10"])
    pairs = {name: oracle["pairs"] for name, oracle in found["oracles"].items()}
    assert list(pairs) == ["clicked", "shown", "searched by those who teach", "all that was searched"]
    assert list(pairs.values()) == sorted(pairs.values())
    gains = [oracle["gain"] for oracle in found["oracles"].values()]
    assert found["shares"] == {
        side: {
            name: pytest.approx(night[side]["gain"] / oracle["gain"])
            for name, oracle in found["oracles"].items()
            if oracle["gain"] > 0
        }
        for side in ("served", "candidate")
    }
    assert gains[-1] > 0.5, f"who knows everything teaches the topics: {gains}"
    assert gains[-1] > gains[0] + 0.2, f"a random model shows little of what is right: {gains}"

    kept = sorted(small.iterdir())
    again = simulate(beir, tmp_path / "life", plan, None)
    assert sorted(small.iterdir()) == kept, "neither the first index nor an oracle is made again"
    different = {"seconds", "nights"}
    assert {name: again[name] for name in again if name not in different} == {
        name: found[name] for name in found if name not in different
    }
    assert again["nights"][0]["candidate"] == night["candidate"], "the same seed lives the same life"


@pytest.mark.usefixtures("small")
def test_a_life_with_farms_is_that_of_the_same_seed_without_them(
    beir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLICKLOOP_MINING__MIN_PAIRS", "1000")
    monkeypatch.setenv("CLICKLOOP_TRAINING__SOUP", "3")
    plan = Plan(nights=1, sessions=100, people="cascade", exploration=0.5, soup=1, farms=2, oracles=False, seed=3)
    without = simulate(beir, tmp_path / "life", replace(plan, farm_share=0.0), None)
    attacked = simulate(beir, tmp_path / "life", replace(plan, rotating=True), None)
    for found, searches in ((without, 100), (attacked, 125)):
        (night,) = found["nights"]
        counts = night["counts"]
        assert night["outcome"] == "skipped"
        assert counts["searches"] + counts["robot_searches_left_out"] == searches
        assert found["exploration"]["share"] == 0.5
        assert found["recipe"]["training"] == RECIPE.model_dump(), "one training, all else as it is set"
        assert (found["oracles"], found["shares"]) == ({}, {"served": {}})
    assert attacked["first"] == without["first"]
    assert len(attacked["farms"]) == 2
    assert attacked["farms"] == without["farms"], "nothing was promoted"
    for farm in attacked["farms"]:
        assert farm["served"]["ranks"] == farm["first"]["ranks"]
        assert len(farm["first"]["ranks"]) == 36, "it answers those of its own topic"
        assert all(1 <= rank <= 60 for rank in farm["first"]["ranks"])


def test_a_folder_that_is_no_simulation_is_left_alone(beir: Path, small: Path, tmp_path: Path) -> None:  # noqa: ARG001
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("mine")
    with pytest.raises(ClickLoopError, match=r"precious.*name another"):
        simulate(beir, precious, Plan(nights=1, sessions=10), None)
    assert (precious / "thesis.txt").read_text() == "mine"


@pytest.mark.usefixtures("small")
def test_a_data_folder_that_is_a_file_is_left_alone(beir: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for path in (tmp_path / "thesis.txt", tmp_path / "thesis.txt" / "life"):
        with pytest.raises(ClickLoopError, match=r"--data-dir.*thesis.txt.*name another"):
            simulate(beir, path, Plan(nights=1, sessions=10), None)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_documents_are_named_as_they_are() -> None:
    names = ["list[int]", "a[/b]", ":smile:"]
    rank = {"mean_rank": 5.0, "top_ten": 0.1, "change": 0.0, "change_half_interval": 1.0}
    console = Console(file=io.StringIO(), width=140)
    console.print(_farm_table([{"document": name, "first": rank, "served": rank} for name in names]))
    assert [name for name in names if name not in console.file.getvalue()] == []  # type: ignore[attr-defined]


def test_what_is_missing_is_named(beir: Path, here: Here, tmp_path: Path) -> None:
    code, _, said = here("simulate", str(beir), "--people", "bored")
    assert (code, "'bored'" in said, "position, cascade, trust" in said) == (1, True, True), said
    code, _, said = here("simulate", str(beir), "--exploration", "2")
    assert (code, "exploration.share" in said) == (1, True), said
    code, _, said = here("simulate", str(tmp_path / "nothing"))
    assert (code, "corpus.jsonl" in said) == (1, True), said
    ClickLoop(Settings(data_dir=tmp_path / "data")).close()
    code, _, said = here("evaluate", str(beir), "--split", "dev")
    assert code == 1
    assert "'dev'" in said
    assert "test, train" in said
    code, _, said = here("simulate", str(beir), "--json", str(tmp_path / "no" / "where.json"))
    assert (code, "where.json" in said) == (1, True), "before any work"
    (beir / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nnobody\tknows\t1\n")
    code, _, said = here("simulate", str(beir))
    assert (code, "train.tsv names" in said) == (1, True), said


def test_the_live_release_is_evaluated_on_a_folder(beir: Path, here: Here, prepared: Path, tmp_path: Path) -> None:
    ClickLoop(Settings(data_dir=tmp_path / "data")).close()
    code, _, said = here("evaluate", str(beir))
    assert (code, "no build is live" in said) == (1, True), said
    shutil.rmtree(tmp_path / "data")
    shutil.copytree(prepared, tmp_path / "data")
    code, out, _ = here("evaluate", str(beir), "--json", str(tmp_path / "found.json"))
    assert code == 0
    found = orjson.loads((tmp_path / "found.json").read_bytes())
    assert f"{found['release']}: 40 queries, 60 documents" in out.splitlines()
    assert found["queries"] == 40
    assert 0 < found["nDCG@10"] < 1
