import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from clickloop.plugin.loop import ClickLoop
from clickloop.retriever.ledger import entries
from clickloop.retriever.types import Build
from clickloop.trainer import report
from clickloop.trainer.evaluate import Result, visibility
from clickloop.trainer.gate import Decision
from clickloop.trainer.golden import Golden, GoldenScores
from clickloop.trainer.guards import Guarded
from clickloop.trainer.runs import Run
from clickloop.trainer.sample import Sample
from clickloop.trainer.screen import saving

HOSTILE = "<script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>\"'&"
ACTIVE = {"script", "img", "iframe", "link", "object", "embed", "base", "form", "video", "audio", "image"}
METRICS = {"nDCG@10": 0.5, "RR@10": 0.5, "R@10": 0.5}


@pytest.fixture
def queued(loop: ClickLoop) -> Iterator[Run]:
    """A run that nobody has begun."""
    run = loop.runs.queue("test")
    yield run
    loop.runs.finish(run.id, "failed", ["the test is over"])


@pytest.fixture
def judged(loop: ClickLoop, queued: Run) -> Run:
    """A run whose queries, documents and reasons were written by somebody who means harm."""
    result = Result(
        query=HOSTILE,
        within=orjson.dumps({HOSTILE: HOSTILE}).decode(),
        share=1.0,
        cluster=HOSTILE,
        champion=METRICS,
        candidate=dict.fromkeys(METRICS, 0.75),
        champion_hits=[HOSTILE, "red-1"],
        candidate_hits=["red-1", HOSTILE],
        chosen={HOSTILE: 0.9},
        visible=0.9,
        champion_unseen=0.1,
        candidate_unseen=0.4,
        variance=0.01,
        third=-0.001,
        loss=0.5,
    )
    decision = Decision("rejected", (HOSTILE,), Sample.of([-0.2, 0.22]), look=1, level=0.01, p_value=0.4)
    worse = replace(result, candidate=dict.fromkeys(METRICS, 0.25))
    folder = loop.settings.data_dir / "runs" / queued.id
    folder.mkdir(parents=True)
    report.write_evidence(folder, [result, worse], decision)
    broken = Guarded(HOSTILE, HOSTILE, 50, 0.75, 0.5, -0.375, 0.125)
    scores = GoldenScores(Golden({}, HOSTILE), np.array([0.5, 0.25]), np.array([0.5, 0.5]), 2, 9, 4)
    metrics = {"champion": METRICS, "candidate": METRICS, "delta": METRICS}
    loop.runs.detail(
        queued.id,
        metrics={**metrics, "interval": [-0.2, 0.2], "queries": 2, "clusters": 2},
        mining={HOSTILE: HOSTILE},
        lineage={"recipe": {HOSTILE: HOSTILE}},
        guards={
            HOSTILE: {**broken.as_json(), "release": HOSTILE},
            "latency": {**replace(broken, name="latency", n=3, low=0.0).as_json(), "release": HOSTILE},
        },
        slices=report.slices_json({HOSTILE: [result, worse], "tail": []}),
        visibility=visibility([result, worse]),
        golden=report.golden_json(scores, HOSTILE),
        challenger={
            "run": HOSTILE,
            "release": HOSTILE,
            "nights": 3,
            "queries": report.estimate_json(Sample.of([0.1, 0.2])) | {"p_value": 0.2},
            "people": report.estimate_json(Sample()) | {"p_value": 1.0},
            "lists": report.estimate_json(Sample.of([0.1, 0.3])) | {"z": 2.0},
            "reasons": [HOSTILE],
        },
        screen=saving(100, 400, 1.0, passed=False, ranks_all=False),
    )
    loop.runs.finish(queued.id, "rejected", [HOSTILE])
    run = loop.runs.get(queued.id)
    report.write(folder, run)
    return run


def body(answer: httpx.Response, status: int = 200) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    kind = "application/json" if status < 300 else "application/problem+json"
    assert answer.headers["content-type"] == kind
    return dict(answer.json())


class Page(HTMLParser):
    """What a browser would run or fetch on a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.dangers: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ACTIVE:
            self.dangers.append(tag)
        for name, value in attrs:
            elsewhere = name in ("src", "href", "xlink:href", "srcset") and not (value or "").startswith(("#", "v1/"))
            styled = name == "style" and "url(" in (value or "")
            if elsewhere or styled or name.startswith("on"):
                self.dangers.append(f"{tag} {name}={value}")


def test_a_night_without_enough_to_learn_from_is_skipped_with_the_reason(
    api: httpx.Client, until: Callable[[Callable[[], bool]], None]
) -> None:
    run_id = body(api.post("/v1/runs"), 202)["id"]
    until(lambda: body(api.get(f"/v1/runs/{run_id}"))["state"] == "finished")
    run = body(api.get(f"/v1/runs/{run_id}"))
    assert {"id", "state", "step", "progress", "decision", "metrics", "mining", "timings", "lineage"} <= set(run)
    assert run["decision"]["outcome"] == "skipped"
    assert "0 training pairs" in run["decision"]["reasons"][0]
    assert run["lineage"]["champion"] == body(api.get("/v1/releases"))["releases"][0]["id"]
    report = body(api.get(f"/v1/runs/{run_id}/report"))
    assert (report["id"], report["evidence"]) == (run_id, None)


def test_only_one_run_at_a_time(api: httpx.Client, queued: Run) -> None:
    answer = body(api.post("/v1/runs"), 409)
    assert queued.id in answer["detail"]


def test_runs_are_listed_in_pages_the_newest_first(api: httpx.Client, loop: ClickLoop) -> None:
    made = []
    for _ in range(5):
        made.append(loop.runs.queue("test").id)
        loop.runs.finish(made[-1], "skipped", ["nothing to do"])
    listed: list[str] = []
    cursor: str | None = None
    while len(listed) < 5:
        page = body(api.get("/v1/runs", params={"limit": 2} | ({"cursor": cursor} if cursor else {})))
        assert len(page["runs"]) == 2
        listed += [run["id"] for run in page["runs"]]
        cursor = page["cursor"]
    assert listed[:5] == made[::-1]
    everything = body(api.get("/v1/runs", params={"limit": 200}))
    assert everything["cursor"] is None
    assert len({run["id"] for run in everything["runs"]}) == len(everything["runs"])


def test_a_cursor_that_no_page_gave_is_refused_by_its_name(api: httpx.Client) -> None:
    assert body(api.get("/v1/runs?cursor=abc"), 422)["errors"][0]["name"] == "cursor"


@pytest.mark.parametrize("limit", ["0", "-1", "201", "many"])
def test_a_wrong_limit_is_refused(api: httpx.Client, limit: str) -> None:
    assert "limit" in body(api.get("/v1/runs", params={"limit": limit}), 422)["detail"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/runs/run-unknown"),
        ("GET", "/v1/runs/run-unknown/report"),
        ("POST", "/v1/runs/run-unknown/approve"),
        ("POST", "/v1/runs/run-unknown/reject"),
        ("GET", "/v1/runs/..%2F..%2Fclickloop.db/report"),
        ("POST", "/v1/releases/release-unknown/activate"),
    ],
)
def test_an_unknown_run_or_release_is_not_found(api: httpx.Client, method: str, path: str) -> None:
    assert body(api.request(method, path), 404)["detail"]


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/v1/runs?cursor=a%00b", "cursor"),
        ("GET", "/v1/runs/a%00b", "id"),
        ("GET", "/v1/runs/a%00b/report", "id"),
        ("POST", "/v1/runs/a%00b/approve", "id"),
        ("POST", "/v1/releases/a%00b/activate", "id"),
    ],
)
def test_nul_in_an_address_is_refused(api: httpx.Client, method: str, path: str, name: str) -> None:
    assert body(api.request(method, path), 422)["errors"][0]["name"] == name


def test_a_run_that_does_not_wait_can_be_neither_approved_nor_rejected(api: httpx.Client, queued: Run) -> None:
    for wish in ("approve", "reject"):
        assert queued.id in body(api.post(f"/v1/runs/{queued.id}/{wish}"), 409)["detail"]


def test_a_waiting_run_is_rejected_once(api: httpx.Client, loop: ClickLoop, queued: Run) -> None:
    loop.runs.wait_for_approval(queued.id)
    assert body(api.post(f"/v1/runs/{queued.id}/reject")) == {"id": queued.id}
    decision = body(api.get(f"/v1/runs/{queued.id}"))["decision"]
    assert decision == {"outcome": "rejected", "reasons": ["rejected by api"]}
    body(api.post(f"/v1/runs/{queued.id}/approve"), 409)


def test_a_report_is_json_or_a_page_as_asked_for(api: httpx.Client, judged: Run) -> None:
    path = f"/v1/runs/{judged.id}/report"
    data = body(api.get(path))
    assert data["decision"]["outcome"] == "rejected"
    assert data["evidence"]["better"][0]["query"] == HOSTILE
    assert data["evidence"]["better"][0]["within"] == {HOSTILE: HOSTILE}
    page = api.get(path, headers={"Accept": "text/html,application/xhtml+xml"})
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert judged.id in page.text
    assert page.text.count("<svg") == 2


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/json, text/html;q=0.1", "application/json"),
        ("text/html;q=0.5, */*", "application/json"),
        ("text/html;q=0", "application/json"),
        ("*/*", "application/json"),
        ("text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8", "text/html; charset=utf-8"),
        ("application/json;q=0.9, Text/HTML;level=1", "text/html; charset=utf-8"),
        ("text/html;q=much", "text/html; charset=utf-8"),
    ],
)
def test_a_report_is_what_weighs_more(api: httpx.Client, queued: Run, accept: str, kind: str) -> None:
    answer = api.get(f"/v1/runs/{queued.id}/report", headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)


def test_a_page_says_what_guards_slices_challenger_and_screen_found(api: httpx.Client, judged: Run) -> None:
    path = f"/v1/runs/{judged.id}/report"
    text = " ".join(re.sub(r"<[^>]+>", " ", api.get(path, headers={"Accept": "text/html"}).text).split())
    for part in (
        "Broken guard:",
        "broken &lt;script",
        "50 0.7500 0.5000 0.3750 0.1250",
        "latency queries are encoded about as fast as before says nothing: too few probes",
        "On 90 % of the judged queries a shown document was probably relevant",
        "counts as nothing, so the true gain is probably larger",
        "10 % were never shown to a judge, of the candidate's 40 %",
        "tail all other clusters 0 – –",
        "4 of the 9 relevant documents do not exist",
        "These are too few queries: the guard says nothing.",
        "2 0.3750 0.5000 +0.1250",
        "what people prefer, −1 to 1 0",
        "nDCG@10 on the lists that people saw 2 +0.2000",
        "not passed 100 400 300 3.0",
    ):
        assert part in text, part
    data = body(api.get(path))
    assert data["slices"]["tail"]["champion"] is None
    assert data["visibility"]["visible"] == pytest.approx(0.9)
    assert data["golden"]["missing_documents"] == 4
    assert data["screen"]["documents_ranked"] == 100


def test_the_check_of_pages_sees_dangers() -> None:
    assert Page(f"<p>{HOSTILE}</p>").dangers == [
        "script",
        "img",
        "img src=http://evil.example/x",
        "img onerror=alert(2)",
    ]


def test_what_strangers_wrote_into_a_report_stays_text(api: httpx.Client, judged: Run) -> None:
    for path in (f"/v1/runs/{judged.id}/report", "/admin"):
        page = api.get(path, headers={"Accept": "text/html"})
        assert page.status_code == 200
        assert Page(page.text).dangers == []
        assert "@import" not in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
    text = api.get(f"/v1/runs/{judged.id}/report", headers={"Accept": "text/html"}).text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 8


def test_a_run_without_evidence_has_a_report_too(api: httpx.Client, queued: Run) -> None:
    path = f"/v1/runs/{queued.id}/report"
    assert body(api.get(path))["evidence"] is None
    assert queued.id in api.get(path, headers={"Accept": "text/html"}).text


def test_any_release_but_the_live_one_can_be_activated(
    api: httpx.Client,
    loop: ClickLoop,
    until: Callable[[Callable[[], bool]], None],
    retired: Callable[[ClickLoop], Build],
) -> None:
    (first,) = body(api.get("/v1/releases"))["releases"]
    other = retired(loop).release_id
    for release in (other, first["id"]):  # there, and back for the other tests
        listed = body(api.get("/v1/releases"))["releases"]
        states = {each["id"]: (each["live"], each["can_roll_back_to"]) for each in listed}
        before = next(each for each in (other, first["id"]) if each != release)
        assert states == {release: (False, True), before: (True, False)}
        moves = len(entries(loop.database))
        assert body(api.post(f"/v1/releases/{before}/activate"), 202)["id"] == before
        assert len(entries(loop.database)) == moves, "what is live already is no switch"
        answer = body(api.post(f"/v1/releases/{release}/activate"), 202)
        assert answer["id"] == release
        until(lambda: loop.releases.wanted() is None)
        live = loop.releases.live()
        assert live is not None
        assert (live.id, live.state) == (answer["build"], "ready")
        assert body(api.post("/v1/search", json={"query": "red list", "log": False}))["release"] == release


def test_health_readiness_and_metrics_need_no_key(address: str, api: httpx.Client) -> None:
    api.post("/v1/search", json={"query": "red list", "log": False})
    with httpx.Client(base_url=address) as stranger:
        assert body(stranger.get("/health")) == {"status": "ok"}
        assert body(stranger.get("/ready")) == {"status": "ready"}
        metrics = stranger.get("/metrics")
        for path in ("/health", "/ready", "/metrics"):
            head = stranger.head(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-type"] == stranger.get(path).headers["content-type"]
    assert metrics.status_code == 200
    assert metrics.headers["content-type"].startswith("text/plain")
    values = dict(line.rsplit(" ", 1) for line in metrics.text.splitlines() if not line.startswith("#"))
    assert float(values["clickloop_search_seconds_count"]) >= 1
    assert values["clickloop_indexed_revision"] == values["clickloop_documents_revision"] == "12.0"
