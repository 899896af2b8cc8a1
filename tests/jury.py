"""People who see a challenger beside the champion and judge by what they click."""

import random
from pathlib import Path
from typing import Any

from school import FILLERS, TOPICS, LessonSettings, until
from sqlalchemy import select

from clickloop.plugin.loop import ClickLoop
from clickloop.plugin.settings import Settings
from clickloop.retriever.schema import challenger
from clickloop.retriever.types import Event, Who
from clickloop.trainer.recipe import Promotion, Split

PEOPLE = 250


def uncertain(lesson_settings: LessonSettings, folder: Path) -> Settings:
    """So few queries judge that a first look can prove nothing, and everybody sees champion and challenger."""
    return lesson_settings(folder).model_copy(
        update={
            "split": Split(holdout=0.02, development=0.2),
            "promotion": Promotion(min_queries=10, evaluation_traffic=1.0),
        }
    )


def open_with_challenger(settings: Settings) -> ClickLoop:
    loop = ClickLoop(settings)
    loop.start(nights=False)
    loop.wait_until_ready()
    until(lambda: loop.live.challenger() is not None)
    return loop


def ask(loop: ClickLoop, people: int, likes: bool) -> None:
    """People click results on their topic, or without likes none."""
    chance, clicks = random.Random(7), []
    for number in range(people):
        topic = number % 10
        who = Who(client_id=f"judge-{likes}-{number}")
        answer = loop.search(f"{TOPICS[topic]} {' '.join(chance.sample(FILLERS, 3))}", 6, who=who)
        right = [hit.id for hit in answer if likes and hit.id.startswith(f"{topic}/")]
        clicks += [
            Event(f"{answer.query_id}{id_}", answer.query_id, "click", id_, None, who, None, 1.0) for id_ in right
        ]
    loop.add_events(clicks)


def state(loop: ClickLoop) -> dict[str, Any]:
    with loop.database.read() as connection:
        return dict(connection.execute(select(challenger)).one()._mapping)
