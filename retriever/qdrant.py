"""A Qdrant server, one collection a build."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from .errors import IndexFault, IndexLost, InvalidInput, Unreachable
from .filters import MAX_EXACT, Condition, Filter, Scalar
from .index import BREADTH, BUILT_WITH, Index, Neighbour, PayloadIndexes, check_query, check_vectors
from .types import Payload, Vectors

BATCH = 256
GREEN_SECONDS = 600  # how long the server may take to index a new build
REFUSED = {400, 404, 409, 413, 422}  # HTTP: what was asked is wrong, and will be; other answers pass, or are of a proxy


P = ParamSpec("P")
T = TypeVar("T")


def asking(method: Callable[P, T]) -> Callable[P, T]:
    """Raises Unreachable when the server does not answer, or not now, and IndexFault when it refuses."""

    @functools.wraps(method)
    def asked(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except ResponseHandlingException as error:
            raise Unreachable(error.source) from error
        except UnexpectedResponse as error:
            if error.status_code in REFUSED:
                raise IndexFault(f"the Qdrant server refused: {error}") from error
            raise Unreachable(f"HTTP status {error.status_code}") from error
        except QdrantException as error:  # too many requests
            raise Unreachable(error) from error

    return asked


def open_qdrant(url: str, api_key: str | None, prefix: str, payload_indexes: PayloadIndexes) -> "QdrantStore":
    """Without asking the server yet: every use of the store does."""
    client = QdrantClient(url=url, api_key=api_key, timeout=60, check_compatibility=False)
    return QdrantStore(client, prefix, payload_indexes)


class QdrantStore:
    """Collections named `<prefix><build>`: several services can share a server, also with the same prefix."""

    tends_itself = True
    exclusive = False

    def __init__(self, client: QdrantClient, prefix: str, payload_indexes: PayloadIndexes) -> None:
        self._client = client
        self._prefix = prefix
        self.payload_indexes = payload_indexes

    @asking
    def create(self, name: str, dimension: int) -> Index:
        collection = self._prefix + name
        self.drop(name)
        self._client.create_collection(
            collection,
            vectors_config=models.VectorParams(size=dimension, distance=models.Distance.DOT),
            hnsw_config=models.HnswConfigDiff(ef_construct=BUILT_WITH),
            # Indexing while points arrive slows both; `finish` turns it on.
            optimizers_config=models.OptimizersConfigDiff(indexing_threshold=0),
        )
        for field, kind in self.payload_indexes.items():
            self._client.create_payload_index(collection, field, models.PayloadSchemaType(kind), wait=True)
        return QdrantIndex(self._client, collection)

    @asking
    def open(self, name: str) -> Index:
        collection = self._prefix + name
        if not self._client.collection_exists(collection):
            raise IndexLost(f"the Qdrant collection {collection} does not exist")
        return QdrantIndex(self._client, collection)

    @asking
    def drop(self, name: str) -> None:
        self._client.delete_collection(self._prefix + name)

    @asking
    def names(self) -> list[str]:
        found = [collection.name for collection in self._client.get_collections().collections]
        return sorted(name.removeprefix(self._prefix) for name in found if name.startswith(self._prefix))

    def check_room(self, documents: int, dimension: int, like: str) -> None:
        """The disk is the server's: it refuses what it cannot take."""


class QdrantIndex:
    def __init__(self, client: QdrantClient, collection: str) -> None:
        self._client = client
        self._collection = collection

    @asking
    def upsert(self, keys: Sequence[int], vectors: Vectors, payloads: Sequence[Payload]) -> None:
        check_vectors(keys, vectors)
        for start in range(0, len(keys), BATCH):
            part = range(start, min(start + BATCH, len(keys)))
            points = [
                models.PointStruct(id=int(keys[i]), vector=vectors[i].tolist(), payload=dict(payloads[i])) for i in part
            ]
            self._client.upsert(self._collection, points, wait=True)

    @asking
    def delete(self, keys: Sequence[int]) -> None:
        if len(keys):
            self._client.delete(self._collection, [int(key) for key in keys], wait=True)

    @asking
    def query(self, vector: Vectors, limit: int, filter: Filter | None = None) -> list[Neighbour]:
        check_query(vector)
        answer = self._client.query_points(
            self._collection,
            query=vector.tolist(),
            query_filter=None if filter is None else _filter(filter),
            limit=limit,
            with_payload=False,
            with_vectors=False,
            search_params=models.SearchParams(hnsw_ef=BREADTH),
        )
        return [Neighbour(int(point.id), float(point.score)) for point in answer.points]

    @asking
    def vectors(self, keys: Sequence[int]) -> dict[int, Vectors]:
        ids = [int(key) for key in keys]
        found = self._client.retrieve(self._collection, ids, with_payload=False, with_vectors=True)
        return {int(point.id): np.asarray(point.vector, dtype=np.float32) for point in found}

    @asking
    def count(self) -> int:
        return self._client.count(self._collection, exact=True).count

    @asking
    def finish(self) -> None:
        """Raises IndexFault when the server does not turn green in time."""
        self._client.update_collection(
            self._collection, optimizers_config=models.OptimizersConfigDiff(indexing_threshold=10_000)
        )
        deadline = time.monotonic() + GREEN_SECONDS
        while self._client.get_collection(self._collection).status != models.CollectionStatus.GREEN:
            if time.monotonic() > deadline:
                raise IndexFault(
                    f"the Qdrant collection {self._collection} did not turn green within {GREEN_SECONDS} s"
                )
            time.sleep(0.5)

    def flush(self) -> None:
        """A Qdrant server writes ahead before it acknowledges."""

    def close(self) -> None:
        """The client is the store's and stays open."""


def _filter(filter: Filter) -> models.Filter:
    return models.Filter(
        must=[_condition(condition) for condition in filter.must] or None,
        should=[_condition(condition) for condition in filter.should] or None,
        must_not=[_condition(condition) for condition in filter.must_not] or None,
    )


def _condition(condition: Condition) -> Any:
    if condition.bounds is not None:
        bounds: dict[str, Any] = dict(condition.bounds)
        if all(isinstance(bound, str) for bound in bounds.values()):
            try:
                return models.FieldCondition(key=condition.key, range=models.DatetimeRange(**bounds))
            except ValueError as error:
                raise InvalidInput(f"filter.{condition.key}", bounds, "not a date") from error
        return models.FieldCondition(key=condition.key, range=models.Range(**bounds))
    if condition.none_of is not None:
        return models.Filter(must_not=[_equals(condition.key, value) for value in condition.none_of])
    return models.Filter(should=[_equals(condition.key, value) for value in condition.any or ()])


def _equals(key: str, value: Scalar) -> models.FieldCondition:
    if isinstance(value, str | bool) or (isinstance(value, int) and abs(value) > MAX_EXACT):
        return models.FieldCondition(key=key, match=models.MatchValue(value=value))
    return models.FieldCondition(key=key, range=models.Range(gte=value, lte=value))
