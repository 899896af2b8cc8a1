"""Who visits a simulated service: honest people who never change, and farms that pay."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from clickloop.plugin.crowd import FARM_PEOPLE, Crowd, Farm, Visit, hire, shown_low
from clickloop.plugin.plan import Plan

RIGHT = {f"query {number}": frozenset({f"d{number}"}) for number in range(30)}
SHOWN = [f"d{number}" for number in range(10)]
PLAN = Plan(sessions=400, position_bias=0.3, seed=4)
FARMS = [Farm("d7", ["query 1", "query 2"]), Farm("elsewhere", ["query 3"])]


def nights(plan: Plan, farms: Sequence[Farm] = (), count: int = 2) -> list[tuple[Visit, list[int]]]:
    """All visits with their clicks."""
    crowd = Crowd(plan, RIGHT)
    return [(visit, visit.clicks(SHOWN)) for number in range(1, count + 1) for visit in crowd.day(number, farms)]


def honest(found: Sequence[tuple[Visit, list[int]]]) -> list[tuple[str, str | None, list[int]]]:
    return [(visit.text, visit.who.client_id, ranks) for visit, ranks in found if visit.honest]


@pytest.mark.parametrize("kind", ["position", "cascade", "trust"])
def test_honest_people_do_the_same_whoever_else_comes(kind: str) -> None:
    plan = replace(PLAN, people=kind)
    alone = honest(nights(plan))
    assert len(alone) == 2 * PLAN.sessions
    assert len({who for _, who, _ in alone}) == len(alone), "each search is somebody else's"
    assert honest(nights(plan, FARMS)) == alone
    assert honest(nights(replace(plan, rotating=True, farm_share=0.5), FARMS)) == alone
    assert honest(nights(replace(plan, seed=5))) != alone


def test_farms_make_their_share_of_all_sessions_evenly() -> None:
    for share in (0.2, 0.5):
        plan = replace(PLAN, farm_share=share)
        found = nights(plan, FARMS, count=1)
        paid = [number for number, (visit, _) in enumerate(found) if not visit.honest]
        assert len(paid) == pytest.approx(share * len(found), abs=1)
        assert len(found) == Crowd(plan, RIGHT).size(FARMS)
        assert sum(number < len(found) / 2 for number in paid) == pytest.approx(len(paid) / 2, abs=1)
        documents = Counter(str(visit.who.client_id).split(":")[0] for visit, _ in found if not visit.honest)
        assert max(documents.values()) - min(documents.values()) <= 1
    assert nights(replace(PLAN, farm_share=0.0), FARMS, count=1) != []
    assert Crowd(PLAN, RIGHT).size([]) == PLAN.sessions


def test_a_farm_clicks_what_it_pushes_and_nothing_else() -> None:
    paid = [(visit, ranks) for visit, ranks in nights(PLAN, FARMS) if not visit.honest]
    assert {tuple(ranks) for visit, ranks in paid if visit.text in FARMS[0].queries} == {(8,)}
    assert {tuple(ranks) for visit, ranks in paid if visit.text in FARMS[1].queries} == {()}, "it is not shown"
    assert {visit.text for visit, _ in paid} == {"query 1", "query 2", "query 3"}


def test_farms_keep_their_client_ids_or_never_use_one_twice() -> None:
    fixed, rotating = (
        [visit.who.client_id for visit, _ in nights(plan, FARMS) if not visit.honest]
        for plan in (PLAN, replace(PLAN, rotating=True))
    )
    assert len(set(fixed)) == FARM_PEOPLE * len(FARMS)
    assert len(set(rotating)) == len(rotating) == len(fixed)


def test_robots_make_their_share_and_click_whatever_is_shown() -> None:
    found = nights(replace(PLAN, bots=0.25), count=5)
    robots = [ranks for visit, ranks in found if not visit.honest]
    assert len(robots) == pytest.approx(0.25 * len(found), rel=0.15)
    clicks = Counter(rank for ranks in robots for rank in ranks)
    assert set(clicks) == set(range(1, len(SHOWN) + 1))
    assert max(clicks.values()) < 1.4 * min(clicks.values())


def test_people_without_information_click_by_rank_alone() -> None:
    plan = replace(PLAN, senseless=True, noise=0.0)
    clicked = Counter(rank for _, ranks in nights(plan) for rank in ranks)
    assert set(clicked) == set(range(1, len(SHOWN) + 1)), "the noiseless would click what is right only"


def test_farms_look_for_queries_that_show_their_document_low() -> None:
    ranked = {"query 7": SHOWN, "query 20": SHOWN[::-1], "query 21": [*SHOWN, "d10"]}
    low = shown_low(ranked, RIGHT)
    assert low["d7"] == ["query 21"], "query 7 it answers, and query 20 has it on rank 3"
    assert low["d4"] == ["query 7", "query 20", "query 21"]
    assert "d10" not in low, "rank 11 is not seen"


def test_farms_push_what_many_queries_show_low() -> None:
    low = {f"d{number}": [f"query {query}" for query in range(number)] for number in range(100)}
    farms = hire(3, low, seed=1)
    assert hire(3, low, seed=1) == farms
    assert len({farm.document for farm in farms}) == 3
    assert all(farm.queries == low[farm.document] for farm in farms)
    assert all(len(farm.queries) >= 70 for farm in farms)
    assert any(hire(3, low, seed) != farms for seed in range(2, 5))
    assert hire(3, {}, seed=1) == []
