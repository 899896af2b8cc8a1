"""Texts lose some of their tokens whenever they are trained on, and nothing else of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer

from clickloop.trainer.mine import TEXTS
from clickloop.trainer.token_dropout import drop_tokens, dropout_collator

PAD, FIRST, LAST = 0, 1, 2  # special tokens


def batch(*lengths: int) -> dict[str, Any]:
    """Texts of so many tokens, all different, between the first and the last token."""
    ids = torch.zeros((len(lengths), max(lengths) + 2), dtype=torch.int64)
    for row, length in enumerate(lengths):
        ids[row, : length + 2] = torch.tensor([FIRST, *range(100 * row + 10, 100 * row + 10 + length), LAST])
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "token_type_ids": ids % 2, "task": "any"}


def texts(found: dict[str, Any]) -> list[list[int]]:
    rows = zip(found["input_ids"].tolist(), found["attention_mask"].sum(1).tolist(), strict=True)
    assert found["attention_mask"].sort(dim=1, descending=True).values.equal(found["attention_mask"]), "padded behind"
    assert found["attention_mask"].any(0).all(), "as wide as the longest"
    return [ids[:length] for ids, length in rows]


def test_a_share_of_the_tokens_is_left_out_and_the_others_keep_their_order() -> None:
    torch.manual_seed(0)
    whole = batch(60, 40, 5)
    left, all_of_them = 0, 0
    for _ in range(50):
        found = drop_tokens(whole, 0.2, [PAD, FIRST, LAST])
        assert found["task"] == "any"
        assert (found["token_type_ids"] == found["input_ids"] % 2).all(), "what belongs to a token moves with it"
        for text, before in zip(texts(found), texts(whole), strict=True):
            assert text == [token for token in before if token in text]
            assert (text[0], text[-1]) == (FIRST, LAST)
            left += len(text) - 2
            all_of_them += len(before) - 2
    assert left / all_of_them == pytest.approx(0.8, abs=0.02)


def test_nothing_is_left_out_of_a_prompt_nor_everything_of_a_text() -> None:
    torch.manual_seed(0)
    whole = {**batch(1, 6), "prompt_length": 4}
    for _ in range(20):
        one, other = texts(drop_tokens(whole, 0.99, [PAD, FIRST, LAST]))
        assert one == [FIRST, 10, LAST]
        assert other[:4] == [FIRST, 110, 111, 112]
    assert texts(drop_tokens(batch(1), 0.99, [PAD, FIRST, LAST])) == [[FIRST, 10, LAST]]
    assert texts(drop_tokens(batch(0, 3), 0.99, [PAD, FIRST, LAST]))[0] == [FIRST, LAST]


def test_without_a_share_a_batch_stays_as_it_is(tiny_model: Path) -> None:
    model = SentenceTransformer(str(tiny_model), device="cpu")
    rows = [
        {"query": "list of strings", "positive": "a b c", "negative": "map", "label": [1.0, 0, 1, 2]},
        {"query": "sort", "positive": "split the string", "negative": "to", "label": [0.5, 3, 4, 5]},
    ]
    whole, thin = (dropout_collator(model, share)(model.preprocess)(rows) for share in (0.0, 0.5))
    assert whole["label"].equal(thin["label"])
    for column in TEXTS:
        expected = model.preprocess([row[column] for row in rows])
        for name in ("input_ids", "attention_mask"):
            assert whole[f"{column}_{name}"].equal(expected[name])
    assert sum(thin[f"{column}_attention_mask"].sum() for column in ("query", "positive")) < sum(
        whole[f"{column}_attention_mask"].sum() for column in ("query", "positive")
    )
