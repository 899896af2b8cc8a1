"""Exploration in the service: what people see, what the log says, and when nothing is explored."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import Row, select

from clickloop.plugin.loop import ClickLoop
from clickloop.plugin.settings import Settings
from clickloop.retriever.explore import EXPLORATION, Exploration
from clickloop.retriever.schema import searches, shown
from clickloop.retriever.search import RANKER, Live, OpenBuild, Searcher
from clickloop.retriever.types import Answer

SEARCHES = 60
DIALS = Exploration(share=0.5, first_slot=4, slots=2, depth=9)  # of 12 documents
Open = Callable[..., ClickLoop]


@pytest.fixture
def open_with(data_dir: Path, settings_for: Callable[[Path], Settings]) -> Iterator[Open]:
    loops = []

    def opened(dials: Exploration = DIALS) -> ClickLoop:
        loop = ClickLoop(settings_for(data_dir).model_copy(update={"exploration": dials}))
        loops.append(loop)
        loop.start(nights=False)
        loop.wait_until_ready()
        return loop

    yield opened
    for loop in loops:
        loop.close()


def rows(loop: ClickLoop) -> dict[str, list[Row[tuple[str, str, float]]]]:
    """Document, ranker and propensity of every result of every logged search, after a close of the log."""
    loop.log.close()
    columns = (searches.c.query_id, shown.c.document_id, shown.c.ranker, shown.c.propensity)
    statement = select(*columns).join(searches, searches.c.seq == shown.c.search_seq).order_by(shown.c.rank)
    found: dict[str, list[Row[tuple[str, str, float]]]] = {}
    with loop.database.read() as connection:
        for query_id, *_ in (everything := connection.execute(statement).all()):
            found[query_id] = [row[1:] for row in everything if row[0] == query_id]
    return found


def ids(answer: Answer) -> list[str]:
    return [hit.id for hit in answer]


def test_off_by_default_and_then_every_search_is_exact(open_with: Open) -> None:
    loop = open_with(Exploration())
    exact = loop.search("red list", 6, log=False)
    answers = [loop.search("red list", 6) for _ in range(SEARCHES)]
    assert all(list(answer) == list(exact) for answer in answers)
    for found in rows(loop).values():
        assert found == [(id_, RANKER, 1.0) for id_ in ids(exact)]


def test_lower_results_are_seen_in_the_slots_and_the_log_says_so(open_with: Open) -> None:
    loop = open_with()
    exact = ids(loop.search("red list", 9, log=False))
    answers = {answer.query_id: answer for answer in (loop.search("red list", 5) for _ in range(SEARCHES))}
    logged = rows(loop)
    explored = 0
    for query_id, answer in answers.items():
        assert [hit.rank for hit in answer] == [1, 2, 3, 4, 5]
        assert [row[0] for row in logged[query_id]] == ids(answer)
        assert logged[query_id][:3] == [(id_, RANKER, 1.0) for id_ in exact[:3]]
        for place, (id_, ranker, propensity) in list(enumerate(logged[query_id]))[3:]:
            if ranker == EXPLORATION:
                strata = [exact[rank] for rank in range(5 + place - 3, 9, 2)]
                weights = [1 / (rank + 1) for rank in range(5 + place - 3, 9, 2)]
                chance = 0.5 * weights[strata.index(id_)] / sum(weights)
            else:
                assert (id_, ranker) == (exact[place], RANKER)
                chance = 0.5
            assert propensity == pytest.approx(chance)
        rankers = {row[1] for row in logged[query_id][3:]}
        assert len(rankers) == 1, "a search explores in every slot or in none"
        explored += rankers == {EXPLORATION}
    assert 0 < explored < SEARCHES, "a share of them: not all, not none (each has a chance of 2^-60)"


def test_a_search_that_is_not_logged_is_exact(open_with: Open) -> None:
    loop = open_with()
    exact = [list(loop.search("red list", 6, log=False)) for _ in range(SEARCHES)]
    assert all(one == other for one, other in pairwise(exact))
    assert rows(loop) == {}


@pytest.mark.parametrize("k", [1, 3, 9, 12], ids=["one", "before the slot", "the depth", "all"])
def test_a_page_too_short_or_too_long_explores_nothing(open_with: Open, k: int) -> None:
    loop = open_with()
    exact = ids(loop.search("red list", k, log=False))
    assert all(ids(loop.search("red list", k)) == exact for _ in range(20))
    assert {row[1:] for found in rows(loop).values() for row in found} == {(RANKER, 1.0)}


def test_explored_results_match_the_filter(open_with: Open) -> None:
    """Six documents match; of five results two are slots, with a single candidate for the first of them."""
    loop = open_with()
    wanted = {"year": 2002}
    exact = ids(loop.search("red list", 6, wanted, log=False))
    assert len(exact) == 6
    pages = {tuple(ids(loop.search("red list", 5, wanted))) for _ in range(SEARCHES)}
    assert pages == {tuple(exact[:5]), (*exact[:3], exact[5], exact[4])}
    assert {row[2] for found in rows(loop).values() for row in found[4:]} == {1.0}


def test_deleted_documents_are_never_explored(open_with: Open) -> None:
    loop = open_with()
    gone = ids(loop.search("red list", 12, log=False))[5:8]
    for id_ in gone:
        loop.delete_document(id_)
    found = {id_ for _ in range(SEARCHES) for id_ in ids(loop.search("red list", 5))}
    assert not found & set(gone)
    assert len(found) == 9, "what is left of the candidates moves up"


def test_a_drafted_search_does_not_explore(open_with: Open) -> None:
    """Champion and challenger have the same ranking here, so that a drafted list is theirs."""
    loop = open_with()
    champion = loop.live.current()
    assert champion is not None
    live = Live()
    live.install(champion)
    live.challenge(OpenBuild(champion.build, replace(champion.release, id="new"), champion.encoder, champion.index))
    searcher = Searcher(live, loop.documents, loop.log, 1.0, DIALS)
    exact = ids(loop.search("red list", 5, log=False))
    assert all(ids(searcher.search("red list", 5)) == exact for _ in range(SEARCHES))
    assert {row[1:] for found in rows(loop).values() for row in found} == {(RANKER, 1.0)}
