"""A small world that a tiny model can learn: documents name a topic by a digit, queries by a letter."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from clickloop.plugin.loop import ClickLoop
from clickloop.plugin.settings import Settings
from clickloop.retriever.types import Document, Event, Search, Shown, Who
from clickloop.trainer.recipe import FineTuning
from clickloop.trainer.runs import Run

TOPICS = "abcdefghij"  # topic i is the letter TOPICS[i] in queries and the digit i in documents
FILLERS = "klmnopqrstuvwxyz"
SEARCHES = 1200
# A recipe for a tiny model: small steps, in one training. Half as many teach too little to some days. One word of a
# text says all, so that none is left out.
RECIPE = FineTuning(epochs=2, soup=1, batch_size=16, learning_rate=1e-2, token_dropout=0.0, max_tokens=16)
RECIPE_VARIABLES = {
    f"CLICKLOOP_TRAINING__{name.upper()}": str(value) for name, value in RECIPE.model_dump(exclude_unset=True).items()
}
LessonSettings = Callable[[Path], Settings]


def documents() -> list[Document]:
    chance = random.Random(1)
    return [
        Document(f"{topic}/{number}", "", f"{topic} {' '.join(chance.sample(FILLERS, 2))}", {"topic": topic})
        for topic in range(len(TOPICS))
        for number in range(6)
    ]


def write_beir(folder: Path) -> Path:
    """A BEIR folder of these documents: the train split may search, the test split only measures."""
    chance = random.Random(2)
    (folder / "qrels").mkdir(parents=True)
    found = documents()
    lines = [orjson.dumps({"_id": d.id, "title": d.title, "text": d.text}).decode() for d in found]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    queries = []
    for split, each in (("train", 16), ("test", 4)):
        rows = ["query-id\tcorpus-id\tscore"]
        for topic, letter in enumerate(TOPICS):
            for number in range(each):
                name = f"{split}-{topic}-{number}"
                queries.append({"_id": name, "text": f"{letter} {' '.join(chance.sample(FILLERS, 3))}"})
                rows += [f"{name}\t{d.id}\t1" for d in found if d.id.startswith(f"{topic}/")]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(rows) + "\n")
    (folder / "queries.jsonl").write_text("\n".join(orjson.dumps(query).decode() for query in queries) + "\n")
    return folder


def teach(loop: ClickLoop, sense: bool, seed: int = 0, filtered: bool = False) -> None:
    """A day of searches, perhaps each among some topics only: people click the document that is right, or, without
    sense, any one.
    """
    chance = random.Random(seed)
    ids = [document.id for document in documents()]
    asked = [(topic, " ".join(chance.sample(FILLERS, 3))) for topic in range(10) for _ in range(50)]
    now, clicks, live = time.time(), [], loop.releases.live()
    assert live is not None
    for number in range(SEARCHES):
        topic, filler = asked[number % len(asked)]
        right = f"{topic}/{chance.randrange(6)}"
        wrong = chance.sample([id_ for id_ in ids if not id_.startswith(f"{topic}/")], 4)
        shown = [*wrong, right]
        chance.shuffle(shown)
        query_id, who = f"{seed}-{number}", Who(client_id=f"{seed}-{number}")
        results = [Shown(rank, id_, "semantic") for rank, id_ in enumerate(shown, 1)]
        asked_of = (live.id, live.release_id)
        filter = {"topic": sorted({int(id_.split("/")[0]) for id_ in shown})} if filtered else None
        loop.log.record(Search(query_id, f"{TOPICS[topic]} {filler}", 5, filter, *asked_of, results, who, 1.0, now))
        clicked = right if sense else chance.choice(shown)
        clicks.append(Event(f"e{query_id}", query_id, "click", clicked, None, who, None, now))
    assert loop.add_events(clicks).accepted == SEARCHES


def one_night(loop: ClickLoop) -> str:
    run = loop.run_night(loop.runs.queue("test").id, lambda _step, _share: None)
    assert run.state in ("finished", "waiting"), run
    return f"{run.outcome}: {'; '.join(run.reasons)}"


def resume(loop: ClickLoop) -> Run:
    """After a kill: the service starts and answers, and then the interrupted night goes on to its end."""
    interrupted = loop.runs.unfinished()
    assert interrupted is not None
    loop.start(nights=False)
    loop.wait_until_ready()
    assert len(loop.search("a k", k=5)) == 5, "the service answers before the run is resumed"
    return loop.run_night(interrupted.id, lambda _step, _share: None)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "not within 60 s"
        time.sleep(0.02)
