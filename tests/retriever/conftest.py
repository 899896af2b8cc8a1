"""Every index behind the seam, for the tests of the contract."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from qdrant_client import QdrantClient

from clickloop.retriever.edge import EdgeStore
from clickloop.retriever.index import Index, IndexStore
from clickloop.retriever.qdrant import QdrantStore

PAYLOAD_INDEXES = {
    "language": "keyword",
    "tags": "keyword",
    "year": "integer",
    "price": "float",
    "active": "bool",
    "released": "datetime",
}


@pytest.fixture(params=["edge", "edge with payload indexes", "server"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[IndexStore]:
    if request.param == "server":
        url = os.environ.get("CLICKLOOP_TEST_QDRANT_URL")
        client = QdrantClient(url=url) if url else QdrantClient(":memory:")
        # The client's in-memory mode has no payload indexes and warns about every one.
        made: IndexStore = QdrantStore(client, f"test-{secrets.token_hex(6)}-", PAYLOAD_INDEXES if url else {})
        yield made
        for name in made.names():
            made.drop(name)
        client.close()
    else:
        yield EdgeStore(tmp_path / "index", {} if request.param == "edge" else PAYLOAD_INDEXES)


@pytest.fixture
def index(store: IndexStore) -> Iterator[Index]:
    """Empty, of dimension 4."""
    made = store.create("build", 4)
    yield made
    made.close()
