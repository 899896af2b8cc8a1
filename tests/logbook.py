"""A log written straight into a database, and what nights keep of it."""

from pathlib import Path
from typing import Any

from sqlalchemy import null

from clickloop.retriever.database import Database
from clickloop.retriever.explore import EXPLORATION
from clickloop.retriever.schema import events, searches, shown
from clickloop.trainer.history import History
from clickloop.trainer.recipe import Recipe, Split
from clickloop.trainer.snapshot import bounds_now, cluster_of
from clickloop.trainer.split import draw

BOTH = Split().holdout + Split().development
TEXTS = [f"question {number}" for number in range(99)]
DEVELOPED = next(text for text in TEXTS if Split().holdout < draw(cluster_of(text)) < BOTH)


class Log:
    """Writes the log of a new database."""

    def __init__(self, path: Path) -> None:
        self.database = Database(f"sqlite:///{path}")
        self._searches = self._events = 0

    def search(
        self,
        person: str,
        query: str,
        ids: list[str],
        release: str = "r1",
        explored: int | None = None,
        filter: dict[str, Any] | None = None,
    ) -> int:
        self._searches += 1
        row = {
            "query_id": f"q{self._searches}",
            "query": query,
            "k": 10,
            "filter": null() if filter is None else filter,
            "build_id": "b1",
            "release_id": release,
            "took_ms": 1.0,
            "arrived_at": 100.0,
            "client_id": person,
        }
        results = [
            {
                "search_seq": self._searches,
                "rank": rank,
                "document_id": id_,
                "ranker": EXPLORATION if rank == explored else "semantic",
                "propensity": 1.0,
            }
            for rank, id_ in enumerate(ids, 1)
        ]
        with self.database.write() as connection:
            connection.execute(searches.insert(), row)
            connection.execute(shown.insert(), results)
        return self._searches

    def click(self, search: int, document_id: str, action: str = "click") -> None:
        self._events += 1
        row = {
            "event_id": f"e{self._events}",
            "query_id": f"q{search}",
            "query_known": True,
            "action": action,
            "document_id": document_id,
            "arrived_at": 100.0,
        }
        with self.database.write() as connection:
            connection.execute(events.insert(), row)

    def history(self, folder: Path, recipe: Recipe | None = None) -> History:
        """As a night leaves it."""
        made = History(folder, self.database, recipe or Recipe())
        made.advance(bounds_now(self.database))
        return made
