"""What people did, counted: who counts, where, and how far the result stood out of its list."""

import numpy as np
import polars as pl
from impressions import SCHEMA, log_of

from clickloop.trainer.tally import MAX_QUERIES, count_people

COUNTED = ["query", "document_id", "rank", "best", "views", "clicks"]


def test_who_looks_again_and_again_counts_once_at_the_best_rank() -> None:
    counts = count_people(
        log_of([("q", "ann", "d", 5, False), ("q", "ann", "d", 2, False), ("q", "ann", "d", 9, False)])
    )
    assert counts.select(COUNTED).rows() == [("q", "d", 2, 2, 1.0, 0.0)]


def test_a_person_with_a_click_counts_where_it_was_clicked() -> None:
    counts = count_people(
        log_of([("q", "ann", "d", 1, False), ("q", "ann", "d", 7, True), ("q", "bob", "d", 1, False)])
    )
    assert counts.select(COUNTED).rows() == [("q", "d", 1, 1, 1.0, 0.0), ("q", "d", 7, 1, 1.0, 1.0)]


def test_a_click_is_counted_with_its_distance_to_the_last_one_above() -> None:
    clicked = {2, 3, 9}
    rows = [(1, "q", "ann", f"d{rank:02}", rank, rank in clicked) for rank in range(1, 11)]
    rows += [(2, "q", "bob", "d11", 1, True), (3, "p", "bob", "d12", 2, False)]
    counts = count_people(pl.DataFrame(rows, schema=SCHEMA, orient="row")).sort("document_id")
    assert counts["gap"].to_list() == [0, 0, 1, 1, 2, 3, 4, 4, 4, 1, 0, 0]


def test_a_person_with_very_many_queries_weighs_no_more_than_the_most_that_count() -> None:
    many = [(f"q{number:05}", "robot", "d", 1, number % 2 == 0) for number in range(4 * MAX_QUERIES)]
    counts = count_people(log_of([*many, ("q00000", "ann", "d", 1, True)]))
    assert counts["views"].sum() == MAX_QUERIES + 1
    others = [(query, person, document, rank, not clicked) for query, person, document, rank, clicked in many]
    assert set(count_people(log_of(others))["query"]) | {"q00000"} == set(counts["query"]), "whatever was clicked"
    few = count_people(log_of(many[:MAX_QUERIES]))
    assert few["views"].to_list() == [1] * MAX_QUERIES


def test_the_lead_does_not_depend_on_the_scale_of_the_scores() -> None:
    rows = [(1, "q", "p", f"d{rank}", rank, False) for rank in range(1, 5)]
    log = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    scores = np.array([0.9, 0.4, 0.4, 0.3])
    leads = [
        count_people(log.with_columns(score=pl.Series(1 - width * (1 - scores))))["lead"].to_list()
        for width in (1.0, 0.5)
    ]
    assert leads == [[8, -2, -2, -4]] * 2


def test_an_unknown_score_is_neither_for_nor_against_a_result() -> None:
    rows = [(1, "q", "p", f"d{rank}", rank, False) for rank in range(1, 4)]
    log = pl.DataFrame(rows, schema=SCHEMA, orient="row").with_columns(score=pl.Series([0.8, None, 0.2]))
    assert count_people(log)["lead"].to_list() == [6, 0, -6]
    broken = log.with_columns(score=pl.Series([0.8, float("nan"), 0.2]))
    assert count_people(broken)["lead"].to_list() == [0, 0, 0], "of its list nothing is known then"
