"""What a simulation lives through."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Plan:
    """`sessions` a night, each one search by somebody else.

    `people` is a kind of trainer.people.KINDS. `bots` is the share of the sessions made by robots that click whatever
    they are shown. Farms come on top of these sessions and make `farm_share` of all, each pushing one document, with
    the same client ids every night or, `rotating`, with ever new ones. `exploration` overrides exploration.share
    and `soup` training.soup. `test_queries` are measured on, at most.
    """

    nights: int = 3
    sessions: int = 4_000
    people: str = "position"
    position_bias: float = 1.0
    noise: float = 0.1
    senseless: bool = False
    bots: float = 0.0
    farms: int = 0
    farm_share: float = 0.2
    rotating: bool = False
    exploration: float | None = None
    soup: int | None = None
    oracles: bool = True
    test_queries: int | None = None
    seed: int = 0


QUICK: Mapping[str, Any] = {"nights": 2, "sessions": 1_500, "soup": 1, "oracles": False, "test_queries": 500}
