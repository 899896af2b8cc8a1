"""What a night that learns nothing says about why."""

from pathlib import Path

import pytest
from logbook import Log

from clickloop.retriever.types import Release
from clickloop.trainer.history import History
from clickloop.trainer.lessons import Lessons, Skipped, Undecidable, read_lessons
from clickloop.trainer.recipe import Mining, Recipe
from clickloop.trainer.snapshot import bounds_now

CHAMPION = Release("r1", None, 8, "{text}", "", "", 32, "onnx", {}, {}, 1.0)
RECIPE = Recipe(mining=Mining(max_searches_per_person=20))


def lessons(log: Log, folder: Path) -> Lessons:
    return read_lessons(History(folder, log.database, RECIPE), bounds_now(log.database), CHAMPION, RECIPE)


def reason(found: Lessons) -> str:
    """After what is always said."""
    with pytest.raises(Skipped) as skipped:
        found.check_pairs(RECIPE)
    with pytest.raises(Undecidable) as undecidable:
        found.check_judges(RECIPE)
    said, _, added = str(skipped.value).partition("searches and clicks will do")
    assert "training pairs, but at least 100 are needed" in said
    assert str(undecidable.value).endswith(f"more different searches will do{added}")
    return added


@pytest.mark.parametrize(("lost", "said"), [(2, ""), (3, "; 3 of 23 clicks name no search in the log"), (0, "")])
def test_clicks_of_unknown_searches_are_named_where_they_are_more_than_a_tenth(
    lost: int, said: str, log: Log, tmp_path: Path
) -> None:
    for number in range(20):
        log.click(log.search(f"p{number}", f"query {number}", ["a", "b", "c"]), "a")
    for number in range(lost):
        log.click(1000 + number, "a")
    found = lessons(log, tmp_path / "h")
    assert reason(found) == said
    assert (found.counts["clicks_received"], found.counts["clicks_of_unknown_searches"]) == (20 + lost, lost)


def test_clicks_on_documents_that_were_not_shown_are_named(log: Log, tmp_path: Path) -> None:
    for number in range(1500):
        log.click(1 if number else log.search("p", "query", ["a", "b"]), f"other {number}")
    assert (
        reason(lessons(log, tmp_path / "h")) == "; 1,500 of 1,500 clicks name documents that their search did not show"
    )


def test_one_user_id_for_everybody_is_named_as_what_it_looks_like(log: Log, tmp_path: Path) -> None:
    for number in range(30):
        log.click(log.search("guest", f"query {number}", ["a", "b", "c"]), "a")
        log.search(f"p{number}", f"query {number}", ["a", "b", "c"])
    assert reason(lessons(log, tmp_path / "h")) == "; 30 of 60 searches were left out as robots'"
    log.search("somebody", "query 1", ["a"])
    assert reason(lessons(log, tmp_path / "h")) == "", "of this night"
