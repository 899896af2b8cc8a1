"""Guards: what a candidate may not ruin, and the name of what it ruined."""

import random
from collections.abc import Callable, Sequence
from itertools import count

import numpy as np
import pytest

from clickloop.retriever.types import Document, StoredDocument
from clickloop.trainer.golden import Golden, GoldenScores
from clickloop.trainer.guards import (
    FEWEST,
    PROBES,
    Guarded,
    Probe,
    collapse,
    golden,
    identifiers,
    latency,
    retrieval,
    summed_up,
    titles,
)

COUNT = 200


def stored(*documents: Document) -> list[StoredDocument]:
    return [StoredDocument(key, key, False, document) for key, document in enumerate(documents, 1)]


def many(count: int = COUNT) -> list[Probe]:
    return [Probe(f"title {number}", number) for number in range(count)]


def finder(lost: Callable[[int], bool]) -> Callable[[Sequence[str]], list[list[int]]]:
    """Finds the document of every probe first, except those that are lost."""

    def find(queries: Sequence[str]) -> list[list[int]]:
        numbers = [int(query.split()[1]) for query in queries]
        return [[-1] if lost(number) else [number, -1] for number in numbers]

    return find


def test_titles_ask_for_their_document_and_first_sentences_where_there_is_none() -> None:
    found = titles(
        stored(
            Document("a", "A title", "Some text."),
            Document("b", "", "First sentence. And more."),
            Document("c", "", "One line\nand another"),
        )
    )
    assert {(probe.query, probe.key) for probe in found} == {("A title", 1), ("First sentence.", 2), ("One line", 3)}


def test_documents_that_are_nothing_but_their_title_or_share_it_ask_nothing() -> None:
    documents = stored(
        Document("a", "Alone"), Document("b", "", "One sentence"), *[Document(x, "Same", x) for x in "cd"]
    )
    assert titles(documents) == []


def test_identifiers_are_words_that_one_document_has() -> None:
    documents = stored(
        Document("a", "", "the error E1234 of os.path"),
        Document("b", "", "again os.path and getLogger"),
        Document("c", "", "only plain words"),
    )
    assert {(probe.query, probe.key) for probe in identifiers(documents)} == {("E1234", 1), ("getLogger", 2)}


def test_the_same_documents_are_asked_for_every_night() -> None:
    documents = stored(*[Document(f"d{i}", f"title {i}", "text") for i in range(PROBES + 100)])
    first = titles(documents)
    assert len(first) == PROBES
    assert titles(documents[::-1]) == first
    assert len(set(first) & set(titles(documents[:-10]))) >= PROBES - 10


def test_a_model_that_finds_the_same_keeps_the_guard() -> None:
    everything = finder(lambda _: False)
    found = retrieval("self-retrieval", many(), everything, everything, 0.02)
    assert found.holds
    assert (found.n, found.champion, found.candidate, found.low) == (COUNT, 1.0, 1.0, 0.0)


@pytest.mark.parametrize(("every", "holds"), [(3, False), (10, False), (COUNT, True)])
def test_a_model_that_loses_documents_breaks_the_guard_and_says_which(every: int, holds: bool) -> None:
    found = retrieval("self-retrieval", many(), finder(lambda _: False), finder(lambda n: n % every == 0), 0.02)
    assert found.holds == holds
    assert "self-retrieval" in found.says()
    assert ("is broken" in found.says()) == (not holds)


def test_a_small_loss_on_few_probes_breaks_the_guard_because_more_cannot_be_ruled_out() -> None:
    found = retrieval("identifiers", many(40), finder(lambda _: False), finder(lambda n: n == 0), 0.03)
    assert found.candidate - found.champion > -0.03
    assert not found.holds


def test_with_hardly_any_probes_a_guard_says_nothing() -> None:
    found = retrieval("identifiers", many(FEWEST - 1), finder(lambda _: False), finder(lambda _: True), 0.02)
    assert found.holds
    assert found.n == FEWEST - 1
    assert retrieval("identifiers", [], finder(lambda _: False), finder(lambda _: True), 0.02).holds


def test_a_model_that_finds_all_documents_alike_has_collapsed() -> None:
    random = np.random.default_rng(1)
    champion = random.normal(size=(300, 16)).astype(np.float32)
    champion /= np.linalg.norm(champion, axis=1, keepdims=True)
    alike = champion + 0.5
    alike /= np.linalg.norm(alike, axis=1, keepdims=True)
    assert collapse(champion, champion[:, ::-1], 0.1).holds
    assert not collapse(champion, alike, 0.1).holds


def scores(champion: float, candidate: float, count: int = COUNT) -> GoldenScores:
    sides = np.full(count, champion), np.full(count, candidate)
    return GoldenScores(Golden({}, "hash"), *sides, judged=count, documents=count, missing=0)


def test_golden_judgments_guard_and_say_when_they_are_too_few() -> None:
    assert golden(scores(0.5, 0.49), 0.02).holds
    broken = golden(scores(0.5, 0.4), 0.02)
    assert not broken.holds
    assert "guard golden is broken: nDCG@10 0.500 → 0.400" in broken.says()
    few = golden(scores(0.5, 0.1, FEWEST - 1), 0.02)
    assert few.holds
    assert few.as_json()["silent"]
    said = summed_up([golden(scores(0.5, 0.5), 0.02), few])
    assert "none of 2 guards is broken; guard golden says nothing: 29 probes" in said


class Machine:
    """A clock, and encoders that take their time on it; other work makes every third call five times as slow."""

    def __init__(self) -> None:
        self.now, self.chance = 0.0, random.Random(1)

    def encoder(self, ms: float) -> Callable[[str], None]:
        known: set[str] = set()

        def encode(text: str) -> None:
            if text not in known:
                self.now += ms / 1000 * self.chance.uniform(1, 1.2) * self.chance.choice((1, 1, 5))
            known.add(text)

        for number in range(100):
            encode(f"query {number}")
        return encode

    def guard(self, champion: float, candidate: float, queries: int = 100) -> Guarded:
        asked = [f"query {number}" for number in range(queries)]
        return latency(self.encoder(champion), self.encoder(candidate), asked, 0.5, lambda: self.now)


@pytest.mark.parametrize(("candidate", "holds"), [(2.0, True), (2.5, True), (3.5, False), (9.4, False), (0.5, True)])
def test_a_model_that_answers_much_more_slowly_breaks_the_guard_on_a_busy_machine_too(
    candidate: float, holds: bool
) -> None:
    found = Machine().guard(2.0, candidate)
    assert found.holds == holds
    assert found.champion == pytest.approx(2.1, rel=0.2)
    assert found.candidate == pytest.approx(candidate * 1.05, rel=0.2)
    assert found.low == pytest.approx(found.champion - found.candidate, abs=0.1 * candidate)


@pytest.mark.parametrize(("recovers", "holds"), [(4, True), (8, True), (99, False)])
def test_what_seems_slow_is_timed_for_more_rounds(recovers: int, holds: bool) -> None:
    """Something else slowed this side alone for some rounds."""
    machine, queries = Machine(), [f"query {number}" for number in range(60)]
    quiet, slow = machine.encoder(2.0), machine.encoder(20.0)
    asked = count()

    def candidate(text: str) -> None:
        (slow if next(asked) < recovers * len(queries) else quiet)(text)

    assert latency(machine.encoder(2.0), candidate, queries, 0.5, lambda: machine.now).holds == holds


def test_what_nobody_feels_is_no_loss_of_time() -> None:
    assert Machine().guard(0.1, 0.4).holds
    assert not Machine().guard(0.1, 4.0).holds


def test_a_second_measurement_is_not_answered_from_a_cache() -> None:
    machine, queries = Machine(), [f"query {number}" for number in range(60)]
    champion = machine.encoder(2.0)
    first = latency(champion, machine.encoder(2.0), queries, 0.5, lambda: machine.now)
    second = latency(champion, machine.encoder(2.0), queries, 0.5, lambda: machine.now)
    assert first.holds
    assert second.holds
    assert second.champion == pytest.approx(first.champion, rel=0.2)


def test_too_few_queries_tell_no_latency() -> None:
    assert Machine().guard(2.0, 20.0, FEWEST - 1).silent
    assert latency(str, str, ["again"] * 100, 0.5, count().__next__).silent
