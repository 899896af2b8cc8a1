"""`clickloop bench export`, `encoding` and `ingest`: from a model to what serves it, from corpora to vectors, and from
vectors to an index.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..retriever.database import Database
from ..retriever.encoder import load_model
from ..retriever.model import find_model
from ..retriever.releases import Releases
from ..retriever.serving import TEMPLATE, render, unit
from ..retriever.types import Document, Vectors
from .collection import read_beir
from .demo import demo_collection
from .loop import ClickLoop
from .settings import Settings, own_settings

if TYPE_CHECKING:
    from .bench import Given, Rows

ENCODED = 256  # documents, drawn from all
TURNS = 5
INGESTED = 2000


def encoding(say: Callable[[str], None], given: "Given") -> "Rows":
    """Documents a second: sentence-transformers' `encode` in fp32, and ours; they take turns."""
    documents = _documents(given, ENCODED)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        database = Database(f"sqlite:///{folder / 'bench.db'}")
        model = load_model(find_model(Settings.model_fields["model"].default))
        say("exporting")
        releases = Releases(database, folder)
        release = releases.make(model, parent=None, lineage={})
        texts = [release.document_prompt + render(TEMPLATE, document) for document in documents]
        corpus, serving = releases.corpus_encoder(release), releases.encoder(release)
        ways: dict[str, Callable[[], Vectors]] = {
            "sentence-transformers, fp32": lambda: unit(np.asarray(model.encode(texts, show_progress_bar=False))),
            "corpora": lambda: corpus.documents(documents),
            "serving": lambda: serving.documents(documents),
        }
        taken: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        vectors = {way: encode() for way, encode in ways.items()}  # warms up
        for turn in range(TURNS):
            for way, encode in ways.items():
                say(f"{way}, {turn + 1} of {TURNS}")
                began = time.perf_counter(), time.process_time()
                encode()
                taken[way].append((time.perf_counter() - began[0], time.process_time() - began[1]))
        database.close()
    first, *_ = ways
    rows = {}
    for way in ways:
        wall, cpu = np.median(taken[way], axis=0)
        ratios = [theirs[0] / ours[0] for theirs, ours in zip(taken[first], taken[way], strict=True)]
        rows[way] = {
            "docs/s": f"{len(documents) / wall:.0f}",
            "times the first": f"{np.median(ratios):.2f}",
            "docs a CPU second": f"{len(documents) / cpu:.0f}",
            "least cosine": f"{(vectors[way] * vectors[first]).sum(axis=1).min():.5f}",
        }
    return rows


def export(say: Callable[[str], None], given: "Given") -> "Rows":  # noqa: ARG001
    """Seconds until a model is a release: traced, or trained further and put into the graph of its parent, by turns."""
    model = load_model(find_model(Settings.model_fields["model"].default))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        database = Database(f"sqlite:///{folder / 'bench.db'}")
        releases = Releases(database, folder)
        say("warming up")
        first = releases.make(model, parent=None, lineage={})
        for part, parameter in model.named_parameters():
            if ".encoder." in part:
                parameter.data.mul_(1.001)
        taken: dict[str, list[float]] = {"traced": [], "into the graph of its parent": []}
        made = {}
        for turn in range(TURNS):
            for way, parent in zip(taken, (None, first.id), strict=True):
                say(f"{way}, {turn + 1} of {TURNS}")
                began = time.perf_counter()
                made[way] = releases.make(model, parent=parent, lineage={})
                taken[way].append(time.perf_counter() - began)
        database.close()
    traced, _ = taken
    rows = {}
    for way, seconds in taken.items():
        ratios = [theirs / ours for theirs, ours in zip(taken[traced], seconds, strict=True)]
        same = [name for name, digest in made[way].checksums.items() if made[traced].checksums[name] == digest]
        rows[way] = {
            "seconds": f"{np.median(seconds):.2f}",
            "times the first": f"{np.median(ratios):.1f}",
            "like the first": f"{len(same)} of {len(made[way].checksums)} files",
        }
    return rows


def ingest(say: Callable[[str], None], given: "Given") -> "Rows":
    """Seconds of a first start with its export, of storing documents, and of making them searchable."""
    documents = _documents(given, INGESTED)
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        loop = ClickLoop(own_settings(data_dir=Path(name), schedule={"enabled": False}))
        owner = loop.make_owner()
        assert owner.acquire()

        def store() -> None:
            for start in range(0, len(documents), 500):
                loop.documents.put(documents[start : start + 500])

        steps: dict[str, Callable[[], object]] = {
            "first start, with the export of the model": owner.open,
            "storing": store,
            "embedding and indexing": lambda: owner.index_all(lambda _reached, _newest: None),
        }
        for step, work in steps.items():
            say(step)
            began = time.perf_counter()
            work()
            seconds = time.perf_counter() - began
            speed = "" if work == owner.open else f"{len(documents) / seconds:,.0f}"
            rows[step] = {"seconds": f"{seconds:.2f}", "docs/s": speed}
        owner.close()
        loop.close()
    return rows


def _documents(given: "Given", count: int) -> list[Document]:
    collection = demo_collection() if given.data is None else read_beir(given.data)
    order = np.random.default_rng(0).permutation(len(collection.documents))[:count]
    return [collection.documents[number] for number in order]
