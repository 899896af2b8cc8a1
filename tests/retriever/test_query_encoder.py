import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from clickloop.retriever.query_encoder import QueryEncoder
from clickloop.retriever.types import Vectors

PATIENCE_SECONDS = 30


class Model:
    """Encodes a text as its length; the first call ends when it is told to."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.begun, self.go_on = threading.Event(), threading.Event()

    def run(self, texts: list[str]) -> Vectors:
        self.calls.append(texts)
        if len(self.calls) == 1:
            self.begun.set()
            assert self.go_on.wait(PATIENCE_SECONDS)
        if "broken" in texts:
            raise ValueError("broken")
        return np.array([[len(text)] for text in texts], dtype=np.float32)


def encoder(run: Callable[[list[str]], Vectors], most: int = 8, remembered: int = 1 << 20) -> QueryEncoder[str]:
    return QueryEncoder(str, len, run, most=most, remembered=remembered)


def ask_while_busy(model: Model, texts: list[str], most: int = 8) -> list[Future[Vectors]]:
    """Asks for the first text, and for the others, in their order, while it is encoded."""
    queries = encoder(model.run, most)
    with ThreadPoolExecutor(len(texts)) as threads:
        asked = [threads.submit(queries.query, texts[0])]
        assert model.begun.wait(PATIENCE_SECONDS)
        for number, text in enumerate(texts[1:], 1):
            asked.append(threads.submit(queries.query, text))
            while len(queries._queue) < number:
                pass
        model.go_on.set()
    return asked


def test_a_query_that_finds_the_encoder_idle_is_encoded_alone() -> None:
    model = Model()
    model.go_on.set()
    queries = encoder(model.run)
    assert [float(queries.query(text)[0]) for text in ("a", "bb", "ccc")] == [1, 2, 3]
    assert model.calls == [["a"], ["bb"], ["ccc"]]


def test_those_who_wait_share_the_next_call_and_each_gets_its_own_vector() -> None:
    model = Model()
    asked = ask_while_busy(model, ["first", "aaaa", "bbbbb", "cccccc"])
    assert [float(one.result()[0]) for one in asked] == [5, 4, 5, 6]
    assert model.calls == [["first"], ["aaaa", "bbbbb", "cccccc"]]


def test_a_call_takes_no_more_than_it_may_and_the_others_follow() -> None:
    model = Model()
    asked = ask_while_busy(model, ["first", "aaaa", "bbbb", "cccc", "dddd", "eeee"], most=2)
    assert [float(one.result()[0]) for one in asked] == [5, 4, 4, 4, 4, 4]
    assert model.calls == [["first"], ["aaaa", "bbbb"], ["cccc", "dddd"], ["eeee"]]


def test_a_long_query_does_not_share_with_short_ones() -> None:
    model = Model()
    ask_while_busy(model, ["first", "aaaa", "b" * 400, "cccc", "d" * 300])
    assert model.calls == [["first"], ["aaaa", "cccc"], ["b" * 400, "d" * 300]]


def test_a_call_that_fails_is_told_to_all_who_shared_it_and_the_next_one_works() -> None:
    model = Model()
    asked = ask_while_busy(model, ["first", "broken", "shared", "on its own, because it is longer"])
    for one in asked[1:3]:
        with pytest.raises(ValueError, match="broken"):
            one.result()
    assert float(asked[3].result()[0]) == 32


def test_a_repeated_query_is_not_encoded_again() -> None:
    model = Model()
    model.go_on.set()
    queries = encoder(model.run)
    assert queries.query("again") is queries.query("again")
    assert model.calls == [["again"]]


def test_what_is_remembered_is_bounded_and_what_was_used_last_stays() -> None:
    model = Model()
    model.go_on.set()
    queries = encoder(model.run, remembered=3 * 450)
    for text in ("one", "two", "three", "one", "four"):
        queries.query(text)
    model.calls.clear()
    for text in ("one", "three", "four", "two"):
        queries.query(text)
    assert model.calls == [["two"]]


class Lanes(Model):
    """Encodes in two calls at once too, of which the slow one ends when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes: list[list[str]] = []
        self.end = threading.Event()

    def beside(self, texts: list[str]) -> Vectors:
        self.lanes.append(texts)
        if "slow" in texts:
            assert self.end.wait(PATIENCE_SECONDS)
        return np.array([[len(text)] for text in texts], dtype=np.float32)


def test_who_comes_while_a_lane_is_free_does_not_wait_and_the_others_are_shared_out() -> None:
    model = Lanes()
    queries = QueryEncoder(str, len, model.run, model.beside, lanes=2)
    with ThreadPoolExecutor(7) as threads:
        first = threads.submit(queries.query, "first")
        assert model.begun.wait(PATIENCE_SECONDS)
        assert float(threads.submit(queries.query, "second").result(PATIENCE_SECONDS)[0]) == 6
        slow = threads.submit(queries.query, "slow")
        while model.lanes != [["second"], ["slow"]]:
            pass
        waiting = [threads.submit(queries.query, text) for text in ("aaaa", "bbbb", "cccc", "dddd")]
        while len(queries._queue) < 4:
            pass
        model.go_on.set()
        assert [float(one.result(PATIENCE_SECONDS)[0]) for one in waiting] == [4, 4, 4, 4]
        assert not slow.done()
        model.end.set()
    assert float(first.result()[0]) == 5
    assert model.calls == [["first"]]
    assert list(map(len, model.lanes)) == [1, 1, 3, 1]  # of four that wait one calls, and takes half of the others


def test_a_query_that_is_alone_again_gets_all_cores() -> None:
    model = Lanes()
    model.go_on.set()
    model.end.set()
    queries = QueryEncoder(str, len, model.run, model.beside, lanes=2)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(queries.query, ["a", "bb", "ccc", "dddd"]))
    queries.query("alone")
    assert model.calls[-1] == ["alone"]


def test_a_lane_that_fails_fails_only_those_who_shared_it() -> None:
    model = Lanes()

    def beside(texts: list[str]) -> Vectors:
        if "broken" in texts:
            raise ValueError("broken")
        return model.run(texts)

    queries = QueryEncoder(str, len, model.run, beside, lanes=2)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(queries.query, "first")
        assert model.begun.wait(PATIENCE_SECONDS)
        for _ in range(3):  # a lane that is lost would be missed
            with pytest.raises(ValueError, match="broken"):
                threads.submit(queries.query, "broken").result(PATIENCE_SECONDS)
        model.go_on.set()
    assert float(first.result()[0]) == 5
    assert float(queries.query("after")[0]) == 5
