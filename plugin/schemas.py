"""The bodies of requests and answers."""

import datetime
import hashlib
import math
import time
from typing import Annotated, Any

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from ..retriever.search import MAX_K
from ..retriever.types import Answer, Document, Event, Who
from ..trainer.runs import Run
from .problems import named


def _storable(value: str) -> str:
    if "\x00" in value:
        raise ValueError("remove the NUL character")
    return value


Text = Annotated[str, AfterValidator(_storable)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=512), AfterValidator(_storable)]
MAX_EVENTS = 10_000
MAX_DOCUMENTS = 10_000


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class SearchBody(_Strict):
    query: Text
    k: int = Field(10, ge=1, le=MAX_K)
    filter: dict[str, Any] | None = None
    session_id: Name | None = None
    client_id: Name | None = None
    user_id: Name | None = None
    log: bool = True

    def who(self) -> Who:
        return Who(client_id=self.client_id, session_id=self.session_id, user_id=self.user_id)


class EventBody(_Strict):
    query_id: Name
    action: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[\w.:-]+$")]
    document_id: Name
    rank: int | None = Field(None, ge=1, le=1_000_000)
    timestamp: str | float | None = None
    event_id: Name | None = None
    session_id: Name | None = None
    client_id: Name | None = None
    user_id: Name | None = None

    @field_validator("timestamp")
    @classmethod
    def _a_time(cls, value: str | float | None) -> str | float | None:
        if value is not None and not _is_time(value):
            raise ValueError("use seconds since 1970 or an ISO 8601 text")
        return value

    def event(self) -> Event:
        return Event(
            event_id=self.event_id or self._derived_id(),
            query_id=self.query_id,
            action=self.action,
            document_id=self.document_id,
            rank=self.rank,
            who=Who(client_id=self.client_id, session_id=self.session_id, user_id=self.user_id),
            client_time=self._client_time(),
            arrived_at=time.time(),
        )

    def _derived_id(self) -> str:
        """The same content twice is the same event."""
        return hashlib.sha256(orjson.dumps(self.model_dump(), option=orjson.OPT_SORT_KEYS)).hexdigest()

    def _client_time(self) -> float | None:
        if not isinstance(self.timestamp, str):
            return self.timestamp
        moment = datetime.datetime.fromisoformat(self.timestamp)
        return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


def _is_time(value: str | float) -> bool:
    if not isinstance(value, str):
        return math.isfinite(value) and 0 <= value < 1e12
    try:
        datetime.datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


class EventsBody(_Strict):
    """Events are checked one by one, so that one bad item never fails the others."""

    events: list[Any] = Field(max_length=MAX_EVENTS)


_EVENTS = TypeAdapter(list[EventBody])


def sound_events(body: EventsBody) -> tuple[list[Event], list[dict[str, Any]]]:
    """The events that can be stored, and the position of each other one with the reason."""
    try:
        return [event.event() for event in _EVENTS.validate_python(body.events)], []
    except ValidationError:
        pass  # one by one, to tell which
    good, rejected = [], []
    for index, item in enumerate(body.events):
        try:
            good.append(EventBody.model_validate(item).event())
        except ValidationError as error:
            rejected.append({"index": index, "reason": _reason(error)})
    return good, rejected


def _reason(error: ValidationError) -> str:
    faults = [named({**item, "loc": ("event", *item["loc"])}) for item in error.errors()]
    return "; ".join(f"{fault['name']}: {fault['message']}" for fault in faults)


class DocumentBody(_Strict):
    id: Name
    title: str = ""
    text: str = ""
    payload: dict[str, Any] = Field(default_factory=dict)

    def document(self) -> Document:
        return Document(self.id, self.title, self.text, self.payload)


class DocumentsBody(_Strict):
    documents: list[DocumentBody] = Field(max_length=MAX_DOCUMENTS)
    wait: bool = False


def answer_json(answer: Answer) -> dict[str, Any]:
    return {
        "query_id": answer.query_id,
        "release": answer.release,
        "took_ms": answer.took_ms,
        "hits": [
            {
                "id": hit.id,
                "rank": hit.rank,
                "score": hit.score,
                "title": hit.title,
                "text": hit.text,
                "payload": hit.payload,
            }
            for hit in answer
        ],
    }


def run_json(run: Run) -> dict[str, Any]:
    metrics = run.details.get("metrics", {})
    return {
        "id": run.id,
        "state": run.state,
        "step": run.step,
        "progress": run.progress,
        "decision": None if run.outcome is None else {"outcome": run.outcome, "reasons": run.reasons},
        "metrics": {name: metrics.get(name) for name in ("champion", "candidate", "delta", "interval", "clusters")},
        "challenger": run.details.get("challenger"),
        "guards": run.details.get("guards", {}),
        "golden": run.details.get("golden"),
        "slices": run.details.get("slices", {}),
        "visibility": run.details.get("visibility", {}),
        "screen": run.details.get("screen"),
        "mining": run.details.get("mining", {}),
        "timings": run.details.get("timings", {}),
        "lineage": run.details.get("lineage", {}),
        "build": run.details.get("build", {}),
        "requested_by": run.requested_by,
        "created_at": run.created_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
    }
