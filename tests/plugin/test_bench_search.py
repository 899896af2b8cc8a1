import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from clickloop.plugin.bench_search import EMPTY, FLOOR, Row, _Service, above_floor, measured, recall, table_of
from clickloop.plugin.collection import Collection, Question
from clickloop.plugin.load import Asked, Clients, get, percentile, post
from clickloop.retriever.errors import ClickLoopError


class Echo(BaseHTTPRequestHandler):
    """Answers with the body it got, in two parts, and with 404 where it is asked for /nothing."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.headers["Content-Length"] = "0"
        self.do_POST()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(404 if self.path == "/nothing" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for part in (body[:2], body[2:]):
            self.wfile.write(part)
            self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("clients", [1, 3])
def test_every_request_is_sent_once_and_timed(port: int, clients: int) -> None:
    answers: dict[int, bytes] = {}
    asked = Clients(port, clients).ask([post("/", f"body {number}") for number in range(20)], answers.__setitem__)
    assert answers == {number: f'"body {number}"'.encode() for number in range(20)}
    assert len(asked.each) == 20
    assert 0 < min(asked.each) <= max(asked.each) <= asked.wall


def test_an_answer_that_is_not_200_ends_the_measurement(port: int) -> None:
    with pytest.raises(ClickLoopError, match=r"404.*what was sent"):
        Clients(port, 1).ask([post("/nothing", "what was sent")])


def test_a_request_without_a_body_says_so() -> None:
    assert get("/health") == b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_the_empty_route_after_a_search_is_timed_without_the_search(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def noting(clients: Clients, requests: list[bytes]) -> Asked:
        taken = ask(clients, requests)
        asked.extend(request.split(b" ", 2)[1].decode() for request in requests)
        return Asked(range(len(taken.each)), taken.wall)

    ask = Clients.ask
    monkeypatch.setattr(Clients, "ask", noting)
    found = _Service(port).after_search(["one", "other"])
    assert asked == ["/v1/search", "/health"] * 2
    assert list(found.each) == [1, 3]


def test_ratios_are_medians_of_rounds_so_that_one_disturbed_round_does_not_count() -> None:
    def rounds(*milliseconds: float) -> list[Asked]:
        return [Asked([value / 1000] * 4, 4 * value / 1000) for value in milliseconds]

    rows = {
        "1 client": Row(lambda _texts: Asked([], 0), 1, rounds=rounds(2, 2, 40)),
        FLOOR: Row(lambda _texts: Asked([], 0), 1, than="1 client", rounds=rounds(1, 1, 1)),
        EMPTY: Row(lambda _texts: Asked([], 0), 1, rounds=rounds(0.5, 0.5, 0.5)),
        "a peer": Row(lambda _texts: Asked([], 0), 1, than="1 client", rounds=rounds(6, 6, 6)),
    }
    table = table_of(rows)
    assert (table["a peer"]["× p50"], table["a peer"]["× a second"]) == ("3.00", "0.33")
    assert table["1 client"]["p50"] == "2.00"
    assert table["1 client"]["× p50"] == ""
    assert above_floor(rows, EMPTY) == pytest.approx(2.0)


def test_too_few_questions_are_refused_before_any_work() -> None:
    def said(count: int) -> str:
        questions = [Question(f"question {number}", frozenset()) for number in range(count)]
        with pytest.raises(ClickLoopError) as caught:
            measured(Collection([], questions), None, None, said_so_far.append)
        return str(caught.value)

    said_so_far: list[str] = []
    found = re.search(r"^search: 100 different questions are too few for a round; (\d+) are enough$", said(100))
    assert found is not None
    assert 1800 < int(found[1]) < 1900
    assert "1800 different questions" in said(1800)
    assert said_so_far == []


def test_percentiles_are_in_milliseconds() -> None:
    assert percentile([0.001, 0.002, 0.003], 0.5) == pytest.approx(2.0)


def test_a_result_is_right_when_it_scores_as_well_as_the_last_one_of_exact_search() -> None:
    assert recall([[0.9, 0.8, 0.8], [0.9, 0.7, 0.6]], [[0.9, 0.8, 0.8], [0.9, 0.8, 0.7]]) == pytest.approx(5 / 6)
