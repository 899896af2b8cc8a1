"""What a benchmark is given and what it returns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Rows = Mapping[str, Mapping[str, Any]]  # label → column → figure, every row with the same columns


@dataclass(frozen=True, slots=True)
class Given:
    """What a benchmark may use: a BEIR folder (default: the demo's documents), and where to draw."""

    data: Path | None
    plots: Path | None


Benchmark = Callable[[Callable[[str], None], Given], Rows]
