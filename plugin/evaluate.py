"""`clickloop evaluate`: the live release on documents and judgments that somebody brings, by exact search."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

from ..retriever.errors import InvalidInput, NotReady
from ..retriever.serving import encode_documents
from ..retriever.types import Document
from ..trainer.sample import INTERVAL_Z
from ..trainer.truth import PerQuery, measure, ranked_by
from .collection import read_documents, read_split
from .loop import ClickLoop
from .progress import Steps


def evaluate(loop: ClickLoop, folder: Path, split: str, json: Path | None) -> None:
    """Prints nDCG@10, RR@10 and R@10 with 95 % intervals. Raises InvalidInput and NotReady."""
    documents = read_documents(folder)
    questions = read_split(folder, split, documents)
    live = loop.releases.live()
    if live is None:
        raise NotReady("no build is live yet; the first `clickloop ingest` or `clickloop serve` makes one")
    with Steps() as steps:
        found = _found(loop, live.release_id, documents, [question.text for question in questions], steps)
    scores = measure(found, [question.right for question in questions])
    _print(live.release_id, len(documents), scores)
    if json is not None:
        means = {name: float(values.mean()) for name, values in scores.items()}
        try:
            json.write_bytes(orjson.dumps({"release": live.release_id, "queries": len(questions), **means}))
        except OSError as error:
            raise InvalidInput("--json", str(json), f"it cannot be written ({error.strerror})") from None


def _found(
    loop: ClickLoop, release_id: str, documents: Sequence[Document], texts: Sequence[str], steps: Steps
) -> list[list[str]]:
    release = loop.releases.get(release_id)
    encoder = loop.releases.corpus_encoder(release)
    parts = encode_documents(
        encoder, documents, lambda done: steps.show("embedding documents", done / len(documents), f"{done} documents")
    )
    vectors = np.concatenate([part for _, part in parts])
    query = loop.releases.encoder(release).query
    queries = []
    for number, text in enumerate(texts, 1):
        queries.append(query(text))
        steps.show("asking", number / len(texts), "")
    return ranked_by([document.id for document in documents], vectors, np.stack(queries))


def _print(release_id: str, documents: int, scores: PerQuery) -> None:
    count = len(next(iter(scores.values())))
    print(f"{release_id}: {count} queries, {documents} documents")  # a title would be broken at the table's width
    table = Table()
    table.add_column("")
    table.add_column("mean ± 95 %", justify="right")
    for name, values in scores.items():
        half = INTERVAL_Z * float(values.std(ddof=1)) / count**0.5 if count > 1 else 0.0
        table.add_row(name, f"{values.mean():.4f} ± {half:.4f}")
    Console().print(table)
