"""The dials of a night. Everything that is not here is derived."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_SOUP = 10
MAX_SEED = 2**32 // MAX_SOUP - 1  # each training of the soup has a seed of its own, seed * soup + number, of 32 bits


class _Dials(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Mining(_Dials):
    """From judgments to training pairs."""

    min_pairs: int = Field(100, ge=10, description="fewer training pairs than this: the night is skipped")
    min_relevance: float = Field(0.5, gt=0, lt=1, description="posterior relevance from which a pair is trained on")
    relative_margin: float = Field(
        0.05, ge=0, lt=1, description="a negative scores at least this share below its positive"
    )
    max_searches_per_person: int = Field(
        500, ge=1, description="people with more searches a day than this are taken for robots and left out"
    )


class Split(_Dials):
    """What judges was not trained on: shares of the query clusters. People follow theirs: see split.py."""

    holdout: float = Field(0.25, gt=0, lt=1, description="share of query clusters that only judge candidates")
    development: float = Field(0.08, gt=0, lt=0.5, description="share that chooses when to stop and whether to look")


class FineTuning(_Dials):
    start: Literal["champion", "first"] = Field(
        "champion", description="whose weights a night trains further: the present model's, or the first release's"
    )
    epochs: int = Field(2, ge=1, le=50, description="passes over the training pairs, at most")
    soup: int = Field(
        3,
        ge=1,
        le=MAX_SOUP,
        description="trainings with the pairs in other orders; the mean of their weights is the candidate",
    )
    max_pairs: int = Field(
        20_000, ge=100, description="of a longer history so many pairs, drawn anew each night, the newly clicked first"
    )
    batch_size: int = Field(64, ge=2, description="pairs that are each other's negatives")
    learning_rate: float = Field(2e-4, gt=0, description="peak of the linear schedule with 10 % warm-up")
    temperature: float = Field(0.05, gt=0, description="of the softmax over cosines")
    token_dropout: float = Field(
        0.1, ge=0, lt=1, description="share of a text's tokens that is left out, others each time it is trained on"
    )
    max_tokens: int = Field(128, ge=8, description="texts are cut to this length while training")


class Promotion(_Dials):
    mode: Literal["auto", "approve"] = Field("auto", description="approve: an admin confirms every switch")
    min_effect: float = Field(0.005, ge=0, description="smallest estimated gain worth a switch")
    min_queries: int = Field(50, ge=10, description="fewer judged query clusters than this are not enough evidence")
    evaluation_traffic: float = Field(
        0.3, ge=0, le=1, description="share of searches answered from champion and challenger while there is one"
    )
    min_recall: float = Field(0.98, gt=0, le=1, description="recall@10 of the new index against exact search")


class Guards(_Dials):
    """How much may get worse at most, by the lower end of the 95 % interval; a broken guard refuses the candidate."""

    self_retrieval: float = Field(0.05, ge=0, le=1, description="loss of reciprocal rank when titles are asked for")
    identifiers: float = Field(0.05, ge=0, le=1, description="the same for words of one document only, such as codes")
    collapse: float = Field(0.1, ge=0, le=1, description="rise of the mean cosine of random pairs of documents")
    golden: float = Field(0.05, ge=0, le=1, description="loss of nDCG@10 on golden judgments")
    latency: float = Field(
        0.5, ge=0, description="how much slower queries may be encoded, as a share of the champion's time"
    )


class GoldenFiles(_Dials):
    judgments: Path | None = Field(None, description="CSV: query, document_id, relevance; or TREC qrels")
    queries: Path | None = Field(
        None, description="texts of the queries of qrels: JSON lines as in BEIR, or id, tab, text"
    )

    @model_validator(mode="after")
    def _queries_of_judgments(self) -> Self:
        if self.queries is not None and self.judgments is None:
            raise ValueError("queries without judgments: set golden.judgments too")
        return self


class Recipe(_Dials):
    mining: Mining = Mining()
    split: Split = Split()
    training: FineTuning = FineTuning()
    promotion: Promotion = Promotion()
    guards: Guards = Guards()
    golden: GoldenFiles = GoldenFiles()
    seed: int = Field(0, ge=0, le=MAX_SEED, description="of sampling and training")
