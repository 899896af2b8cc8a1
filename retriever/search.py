"""Answering a query: one build for the whole of it."""

import dataclasses
import logging
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from random import Random
from typing import Any

from .documents import Documents
from .errors import InvalidInput, NotReady
from .explore import EXPLORATION, Exploration, explore
from .filters import Filter, parse_filter
from .index import Index
from .interleave import team_draft
from .log import SearchLog
from .serving import Encoder
from .types import Answer, Build, Document, Hit, Release, Search, Shown, Who

_log = logging.getLogger(__name__)

MAX_K = 1000
MAX_QUERY = 8192  # characters
RANKER = "semantic"
CLOSING_SECONDS = 5  # how long an end waits for the searches that have begun
PICK = 0.5  # the chance that the ranking which gave a drafted result was the one to pick at that place
Ranked = list[tuple[Document, float]]
Placed = list[tuple[Document, float, str, float]]  # document, score, who gave it this place, with what propensity


class OpenBuild:
    """An index together with the encoder that made it; closed when it is retired and its last request is through."""

    def __init__(self, build: Build, release: Release, encoder: Encoder, index: Index) -> None:
        self.build = build
        self.release = release
        self.encoder = encoder
        self.index = index
        self._lock = threading.Lock()
        self._users = 0
        self._retired = False
        self._closed = threading.Event()

    @contextmanager
    def use(self) -> Iterator["OpenBuild"]:
        self._enter()
        try:
            yield self
        finally:
            self._leave()

    def advance(self, revision: int) -> None:
        """The index now holds everything up to this revision."""
        self.build = dataclasses.replace(self.build, revision=revision)

    def retire(self) -> None:
        with self._lock:
            self._retired = True
            last = self._users == 0
        if last:
            self._close()

    def wait_closed(self, seconds: float) -> bool:
        """Whether its last request is through, and its index closed, within so many seconds."""
        return self._closed.wait(seconds)

    def _enter(self) -> None:
        with self._lock:
            if self._retired:
                raise _Retired
            self._users += 1

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._retired and self._users == 0
        if last:
            # Beside this search, which may be in the event loop: a dropped index is removed from the disk.
            threading.Thread(target=self._close, name="close-index").start()

    def _close(self) -> None:
        try:
            self.index.close()
        finally:
            self._closed.set()


class _Retired(Exception):
    """The build was replaced between taking it and using it."""


class Live:
    """What this process answers from."""

    def __init__(self) -> None:
        self._current: OpenBuild | None = None
        self._challenger: OpenBuild | None = None

    def install(self, build: OpenBuild) -> None:
        if build is self._challenger:
            self._challenger = None
        former, self._current = self._current, build
        if former is not None and former is not build:
            former.retire()

    def current(self) -> OpenBuild | None:
        return self._current

    def challenge(self, build: OpenBuild | None) -> None:
        """Sets the build that some people see beside the current one, or none."""
        former, self._challenger = self._challenger, build
        if former is not None and former is not build:
            former.retire()

    def challenger(self) -> OpenBuild | None:
        return self._challenger

    @contextmanager
    def lease(self) -> Iterator[OpenBuild]:
        """The present build, kept open until the block ends. Raises NotReady when there is none."""
        while True:
            build = self._current
            if build is None:
                raise NotReady("no build is live yet; the first one is being made")
            try:
                with build.use():
                    yield build
                    return
            except _Retired:
                continue

    def close(self) -> None:
        """Returns when the last searches are through and their indexes closed, so that another process can open them;
        at the latest after CLOSING_SECONDS each.
        """
        left = [build for build in (self._challenger, self._current) if build is not None]
        self._challenger = self._current = None
        for build in left:
            build.retire()
        for build in left:
            if not build.wait_closed(CLOSING_SECONDS):
                _log.warning("a search still uses %s, which cannot be opened again before its end", build.build.id)


class Searcher:
    def __init__(
        self,
        live: Live,
        documents: Documents,
        log: SearchLog,
        evaluation_traffic: float = 0.0,
        exploration: Exploration | None = None,
    ) -> None:
        """`evaluation_traffic`: the share of logged searches whose list is drafted from champion and challenger; of the
        others some explore.
        """
        self._live = live
        self._documents = documents
        self._log = log
        self._evaluation_traffic = evaluation_traffic
        self._exploration = Exploration() if exploration is None else exploration
        self._random = Random()

    def search(
        self,
        query: str,
        k: int = 10,
        filter: Mapping[str, Any] | None = None,
        who: Who | None = None,
        log: bool = True,
    ) -> Answer:
        """The `k` nearest documents that are alive. Raises InvalidInput and NotReady."""
        arrived_at, started = time.time(), time.perf_counter()
        query = check_query_text(query)
        if not 1 <= k <= MAX_K:
            raise InvalidInput("k", k, f"use 1 to {MAX_K}")
        wanted = parse_filter(filter)
        drafts = log and self._random.random() < self._evaluation_traffic
        challenger = self._live.challenger() if drafts else None
        places = self._exploration.places(k) if log and challenger is None else range(0)
        explores = bool(places) and self._random.random() < self._exploration.share
        with self._live.lease() as build:
            ranked = self._nearest(build, query, self._exploration.depth if explores else k + len(places), wanted)
        if challenger is not None:
            placed = self._drafted(ranked, challenger, query, k, wanted)
        else:
            placed = self._explored(ranked, k, places, explores)
        hits = [Hit(d.id, rank, score, d.title, d.text, d.payload) for rank, (d, score, _, _) in enumerate(placed, 1)]
        took_ms = (time.perf_counter() - started) * 1000
        answer = Answer(secrets.token_hex(16), build.release.id, round(took_ms, 3), hits)
        if log:
            other = None if challenger is None else challenger.release.id  # whose scores are of another model
            shown = [
                Shown(rank, d.id, ranker, chance, None if ranker == other else score)
                for rank, (d, score, ranker, chance) in enumerate(placed, 1)
            ]
            ids = (build.build.id, build.release.id)
            self._log.record(
                Search(answer.query_id, query, k, filter or None, *ids, shown, who or Who(), answer.took_ms, arrived_at)
            )
        return answer

    def _drafted(self, ranked: Ranked, challenger: OpenBuild, query: str, k: int, filter: Filter | None) -> Placed:
        """One list out of two rankings and who gave each result. Never fails: the champion's own answer is there."""
        release = challenger.release.id
        try:
            with challenger.use():
                other = self._nearest(challenger, query, k, filter)
        except Exception as error:
            if not isinstance(error, _Retired):
                _log.warning("the challenger %s could not answer", release, exc_info=True)
            return [(*result, RANKER, 1.0) for result in ranked]
        found = {d.id: (d, score) for d, score in [*other, *ranked]}
        picks = team_draft([d.id for d, _ in ranked], [d.id for d, _ in other], k, self._random)
        return [(*found[id_], ranker_of(team, release), 1.0 if team is None else PICK) for id_, team in picks]

    def _explored(self, ranked: Ranked, k: int, places: range, explores: bool) -> Placed:
        page = explore(ranked, k, places, self._exploration.share, self._random if explores else None)
        return [(*result, EXPLORATION if explored else RANKER, chance) for result, explored, chance in page]

    def _nearest(self, build: OpenBuild, query: str, k: int, filter: Filter | None) -> Ranked:
        """Documents deleted since the index was written are left out and the next ones move up."""
        vector = build.encoder.query(query)
        limit = k
        while True:
            neighbours = build.index.query(vector, limit, filter)
            documents = self._documents.by_key([neighbour.key for neighbour in neighbours])
            alive = [(documents[n.key], n.score) for n in neighbours if n.key in documents]
            if len(alive) >= k or len(neighbours) < limit:
                return alive[:k]
            limit *= 2


def ranker_of(team: bool | None, challenger_id: str) -> str:
    """Who gave a drafted result: the challenger (True), the champion (False), or both alike."""
    if team is None:
        return RANKER
    return challenger_id if team else against(challenger_id)


def against(release_id: str) -> str:
    """The name of the champion as ranker in lists drafted from it and this challenger."""
    return f"against {release_id}"


def check_query_text(query: str) -> str:
    stripped = query.strip()
    if not stripped:
        raise InvalidInput("query", query, "give at least one character that is no white space")
    if len(stripped) > MAX_QUERY:
        raise InvalidInput("query", stripped, f"it has {len(stripped)} characters; use at most {MAX_QUERY}")
    return stripped
