"""Every index behind the seam, for the tests of the contract; a release of the tiny model."""

import importlib.util
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from qdrant_client import QdrantClient
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from clickloop.retriever.database import Database
from clickloop.retriever.edge import EdgeStore
from clickloop.retriever.encoder import load_model
from clickloop.retriever.index import Index, IndexStore
from clickloop.retriever.qdrant import QdrantStore
from clickloop.retriever.releases import Releases
from clickloop.retriever.serving import OnnxEncoder
from clickloop.retriever.types import Release

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PAYLOAD_INDEXES = {
    "language": "keyword",
    "tags": "keyword",
    "year": "integer",
    "price": "float",
    "active": "bool",
    "released": "datetime",
}
POSTGRES_URL = os.environ.get("CLICKLOOP_TEST_DATABASE_URL")


@pytest.fixture
def postgres() -> Iterator[Database]:
    """An empty database on the PostgreSQL server of CLICKLOOP_TEST_DATABASE_URL, whose user may make some."""
    if POSTGRES_URL is None or importlib.util.find_spec("psycopg") is None:
        pytest.skip("PostgreSQL: not tested; install clickloop[postgres] and set CLICKLOOP_TEST_DATABASE_URL")
    name = f"clickloop_test_{secrets.token_hex(6)}"
    server = create_engine(POSTGRES_URL, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    opened = Database(make_url(POSTGRES_URL).set(database=name).render_as_string(hide_password=False))
    yield opened
    opened.close()
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


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


@pytest.fixture(scope="session")
def model(tiny_model: Path) -> "SentenceTransformer":
    """The tiny model with prompts, as retrieval models have them."""
    loaded = load_model(str(tiny_model))
    loaded.prompts = {"query": "ask ", "document": "read "}
    return loaded


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Releases]:
    folder = tmp_path_factory.mktemp("encoder")
    database = Database(f"sqlite:///{folder / 'clickloop.db'}")
    yield Releases(database, folder / "releases")
    database.close()


@pytest.fixture(scope="session")
def release(releases: Releases, model: "SentenceTransformer") -> Release:
    return releases.make(model, parent=None, lineage={"model": "tiny"})


@pytest.fixture(scope="session")
def folder(releases: Releases, release: Release) -> Path:
    return releases.folder(release.id)


@pytest.fixture(scope="session")
def encoder(folder: Path, release: Release) -> OnnxEncoder:
    return OnnxEncoder(folder, release, threads=1)
