"""A night's guards and golden judgments: what a candidate may not break, and what becomes of one that does."""

import hashlib
import logging
import random
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import orjson
import pytest
from school import FILLERS, LessonSettings, one_night
from sqlalchemy import func, select

from clickloop.plugin.loop import ClickLoop
from clickloop.retriever.ledger import entries
from clickloop.retriever.schema import looks
from clickloop.retriever.types import Document
from clickloop.trainer.contest import Side
from clickloop.trainer.guards import Guarded
from clickloop.trainer.judge import Judge, Tonight
from clickloop.trainer.nightly import Night
from clickloop.trainer.recipe import GoldenFiles, Promotion


def test_a_candidate_that_wins_and_ruins_a_guard_is_refused_and_says_which(
    folder: Path, lesson_settings: LessonSettings
) -> None:
    """Titles of letters that the lessons teach to overlook: only digits and topics count there."""
    loop = ClickLoop(lesson_settings(folder))
    chance = random.Random(3)
    loop.add_documents(
        [Document(f"titled/{n}", " ".join(chance.sample(FILLERS, 6)), f"{n % 10} of these") for n in range(80)]
    )
    before = loop.releases.live()
    outcome = one_night(loop)
    assert outcome.startswith("rejected"), outcome
    assert "no look was spent" in outcome
    assert "drawn back to 50%" in outcome, "less of what it learned is tried first"
    assert outcome.count("guard self-retrieval is broken") == 3
    assert loop.releases.live() == before
    with loop.database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(looks)) == 0
    (run, *_), _ = loop.runs.page(1)
    assert not run.details["guards"]["self-retrieval"]["holds"]
    assert "guard self-retrieval is broken" in loop.reports.html(run)
    loop.close()


def test_a_candidate_that_breaks_a_guard_is_drawn_back_until_it_holds(
    folder: Path, lesson_settings: LessonSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    guards = Judge.guards

    def strict(judge: Judge, tonight: Tonight, side: Side, part: str | None = None) -> list[Guarded]:
        found = guards(judge, tonight, side, part)
        drawn_back = side.release.id.endswith("-70")
        return found if drawn_back else [replace(found[0], n=100, low=-1.0), *found[1:]]

    monkeypatch.setattr(Judge, "guards", strict)
    loop = ClickLoop(lesson_settings(folder))
    outcome = one_night(loop)
    assert outcome.startswith("promoted"), outcome
    (run, *_), _ = loop.runs.page(1)
    assert "the candidate is drawn back to 70% of what it learned" in run.reasons
    assert sum("guard self-retrieval is broken" in reason for reason in run.reasons) == 1
    live = loop.releases.live()
    assert live is not None
    assert live.release_id == run.id.replace("run-", "release-") + "-70"
    assert loop.releases.get(live.release_id).lineage["share"] == 0.7
    kept = {path.name for path in (folder / "releases").iterdir()}
    assert kept == {release.id for release in loop.releases.list()}
    assert len(kept) == 2, "the first release and the promoted one: what it was drawn back from is gone"
    loop.close()


def test_a_resumed_night_judges_the_candidate_it_had_chosen(
    folder: Path, lesson_settings: LessonSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the guards find nothing wrong with the other one any more: its look may be spent."""
    loop = ClickLoop(lesson_settings(folder))
    queued = loop.runs.queue("test")
    guards = Judge.guards

    def strict(judge: Judge, tonight: Tonight, side: Side, part: str | None = None) -> list[Guarded]:
        found = guards(judge, tonight, side, part)
        return found if side.release.id.endswith("-70") else [replace(found[0], n=100, low=-1.0), *found[1:]]

    def killed(*_given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Judge, "guards", strict)
        patch.setattr(Judge, "judge", killed)
        patch.setattr(Night, "_clean", lambda *_given: None)  # as after a kill
        with pytest.raises(KeyboardInterrupt):
            loop.run_night(queued.id, lambda _step, _share: None)
    run = loop.run_night(queued.id, lambda _step, _share: None)
    assert run.outcome == "promoted", run.reasons
    assert "the candidate is drawn back to 70% of what it learned" in run.reasons
    live = loop.releases.live()
    assert live is not None
    assert live.release_id == run.id.replace("run-", "release-") + "-70"
    loop.close()


def test_where_too_few_queries_judge_there_is_not_enough_evidence(
    folder: Path, lesson_settings: LessonSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a handful of clusters says on the development split."""
    monkeypatch.setattr(Judge, "screen", lambda *_given: 1 / 0)
    loop = ClickLoop(lesson_settings(folder).model_copy(update={"promotion": Promotion(min_queries=100_000)}))
    outcome = one_night(loop)
    assert outcome.startswith("not_enough_evidence: "), outcome
    assert "query clusters judge, but at least 100000 are needed" in outcome
    loop.close()


def test_an_admins_judgments_refuse_a_candidate_that_wins_by_clicks(
    folder: Path, lesson_settings: LessonSettings, tmp_path: Path
) -> None:
    """What the present model finds for letters that the lessons teach to overlook is declared to be right."""
    golden = tmp_path / "golden.csv"
    with ClickLoop(lesson_settings(folder)) as loop:
        queries = [" ".join(letters) for letters in list(combinations(FILLERS, 2))[:60]]
        right = [f"{query},{hit.id},{3 - hit.rank}\n" for query in queries for hit in loop.search(query, 2, log=False)]
        before = loop.releases.live()
    golden.write_text("query,document_id,relevance\nk l,vanished,1\n" + "".join(right))

    loop = ClickLoop(lesson_settings(folder).model_copy(update={"golden": GoldenFiles(judgments=golden)}))
    outcome = one_night(loop)
    assert outcome.startswith("rejected"), outcome
    assert "no look was spent" in outcome
    assert "guard golden is broken: nDCG@10" in outcome
    live = loop.releases.live()
    assert live is not None
    assert before is not None
    assert live.id == before.id
    (run, *_), _ = loop.runs.page(1)
    assert run.details["golden"]["missing_documents"] == 1
    assert run.details["golden"]["change"]["high"] < 0
    assert run.details["guards"]["latency"]["holds"]
    assert set(run.details["slices"]) == {"head", "tail", "unlike training"}
    assert 0 < run.details["visibility"]["visible"] <= 1
    (decision,) = [orjson.loads(entry.content) for entry in entries(loop.database) if entry.kind == "decision"]
    assert decision["golden_sha256"] == hashlib.sha256(golden.read_bytes()).hexdigest()
    page = loop.reports.html(run)
    for part in ("Broken guard: golden", "unlike training", "What this cannot see", "Golden judgments", "Screen"):
        assert part in page
    loop.close()


def test_golden_judgments_that_cannot_be_read_fail_a_night_at_once_and_are_told_at_the_start_of_the_service(
    folder: Path, lesson_settings: LessonSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    golden = tmp_path / "golden.csv"
    golden.write_text("query,document_id,relevance\nk l,0/1,much\n")
    loop = ClickLoop(lesson_settings(folder).model_copy(update={"golden": GoldenFiles(judgments=golden)}))
    outcome = one_night(loop)
    assert outcome.startswith("failed"), outcome
    assert f"{golden}, line 2, relevance: 'much'" in outcome
    assert "mining" not in loop.runs.page(1)[0][0].details, "nothing else was done"
    with caplog.at_level(logging.ERROR), loop:
        assert len(loop.search("a k", k=5)) == 5, "searches go on"
    assert "line 2, relevance: 'much'" in caplog.text
