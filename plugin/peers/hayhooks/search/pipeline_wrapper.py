"""Haystack's dense retrieval as its documentation begins, served by hayhooks: `POST /search/run`.

PEER_MODEL, PEER_CORPUS and PEER_INDEX in the environment; indexes the corpus first where there is no index.
"""

import json
import os
from pathlib import Path

from hayhooks import BasePipelineWrapper
from haystack import Document, Pipeline
from haystack.components.retrievers import InMemoryEmbeddingRetriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack_integrations.components.embedders.sentence_transformers import (
    SentenceTransformersDocumentEmbedder,
    SentenceTransformersTextEmbedder,
)


class PipelineWrapper(BasePipelineWrapper):  # type: ignore[misc]
    def setup(self) -> None:
        store = _store(os.environ["PEER_MODEL"], Path(os.environ["PEER_CORPUS"]), Path(os.environ["PEER_INDEX"]))
        pipeline = Pipeline()
        pipeline.add_component(
            "embedder", SentenceTransformersTextEmbedder(model=os.environ["PEER_MODEL"], progress_bar=False)
        )
        pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=10))
        pipeline.connect("embedder.embedding", "retriever.query_embedding")
        self.pipeline = pipeline
        self.run_api("the first one loads the model")

    def run_api(self, query: str) -> list[dict[str, object]]:
        """The ten best documents."""
        found = self.pipeline.run({"embedder": {"text": query}})["retriever"]["documents"]
        return [{"id": one.id, "score": one.score, "text": one.content} for one in found]


def _store(model: str, corpus: Path, index: Path) -> InMemoryDocumentStore:
    if index.exists():
        return InMemoryDocumentStore.load_from_disk(str(index))
    with corpus.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    documents = [Document(id=one["_id"], content=f"{one.get('title', '')}\n{one['text']}".strip()) for one in rows]
    embedder = SentenceTransformersDocumentEmbedder(model=model, progress_bar=False)
    if hasattr(embedder, "warm_up"):
        embedder.warm_up()
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    store.write_documents(embedder.run(documents)["documents"])
    store.save_to_disk(str(index))
    return store
